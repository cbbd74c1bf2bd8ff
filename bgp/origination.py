"""What a prefix of our own says of itself when it is told. Pure; knows no RIB and no session."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address

from bgp.attributes import PathAttributes
from bgp.communities import sorted_out
from bgp.decision import Path, Source

OURSELVES = Source(key=0, address=IPv4Address(0), router_id=IPv4Address(0), internal=True)


@dataclass(frozen=True, slots=True)
class Origination:
    """Attributes of a prefix that we originate; the next hop is each session's own address."""

    communities: tuple[int, ...] = ()
    large_communities: tuple[bytes, ...] = ()
    local_pref: int | None = None
    """To internal peers; None: the default."""

    @classmethod
    def with_communities(cls, texts: Iterable[str], local_pref: int | None = None) -> Origination:
        """With communities as people write them. Raises ValueError."""
        small, large = sorted_out(texts)
        return cls(small, large, local_pref)

    def path(self) -> Path:
        """As a candidate of the decision."""
        return Path(
            PathAttributes(
                communities=self.communities,
                large_communities=self.large_communities,
                local_pref=self.local_pref,
            ),
            OURSELVES,
        )


PLAIN = Origination()
