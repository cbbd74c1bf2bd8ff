"""Prefixes that we originate: their attributes, and which of them are blocks. Pure; knows no RIB and no session."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TypeVar

from bgp.path import Path, Source
from bgp.policy.policy import Own
from bgp.wire import communities
from bgp.wire.attributes import PathAttributes
from bgp.wire.families import Family, Prefix, family_of
from bgp.wire.nlri import Nlri, pack, truncated

_Prefixes = TypeVar("_Prefixes", bound=Prefix)
OURSELVES = Source(key=0, address=IPv4Address(0), router_id=IPv4Address(0), internal=True)


@dataclass(frozen=True, slots=True)
class Origination:
    """Attributes of a prefix that we originate; the next hop is each session's own address."""

    communities: tuple[int, ...] = ()
    large_communities: tuple[bytes, ...] = ()
    local_pref: int | None = None
    """To internal peers; None: the default."""
    is_block: bool = False
    """We are responsible for all of it: rules can match it, and what others announce inside of it."""

    @classmethod
    def with_communities(cls, texts: Iterable[str], local_pref: int | None = None) -> Origination:
        """With communities as people write them, each once. Raises ValueError."""
        found = list(dict.fromkeys(map(communities.parse, texts)))
        small = tuple(one for one in found if isinstance(one, int))
        return cls(small, tuple(one for one in found if isinstance(one, bytes)), local_pref)

    def path(self) -> Path:
        """The path that is a candidate of the decision process."""
        return Path(
            PathAttributes(
                communities=self.communities,
                large_communities=self.large_communities,
                local_pref=self.local_pref,
            ),
            OURSELVES,
        )


PLAIN = Origination()


def by_family(
    prefixes: Iterable[Prefix] | Mapping[_Prefixes, Origination],
) -> dict[Family, dict[Nlri, Origination]]:
    """What is originated, by family and NLRI."""
    given = prefixes if isinstance(prefixes, Mapping) else dict.fromkeys(prefixes, PLAIN)
    found: dict[Family, dict[Nlri, Origination]] = {family: {} for family in Family}
    for prefix, origination in given.items():
        found[family_of(prefix)][pack(prefix)] = origination
    return found


def changed_originations(
    before: Mapping[Nlri, Origination], wanted: Mapping[Nlri, Origination]
) -> dict[Origination, list[Nlri]]:
    """The prefixes that are new or have other attributes than before, by these."""
    found: dict[Origination, list[Nlri]] = {}
    for prefix, origination in wanted.items():
        if before.get(prefix) != origination:
            found.setdefault(origination, []).append(prefix)
    return found


class OwnBlocks:
    """The blocks that we originate, of one family."""

    def __init__(self, originated: Mapping[Nlri, Origination]) -> None:
        self.prefixes = frozenset(prefix for prefix, how in originated.items() if how.is_block)
        self._lengths = sorted({prefix[0] for prefix in self.prefixes})

    def relation(self, prefix: Nlri) -> Own | None:
        """Whether a prefix is one of them, or lies inside of one."""
        if prefix in self.prefixes:
            return Own.IS
        length = prefix[0]
        for shorter in self._lengths:
            if shorter >= length:
                break
            if truncated(prefix, shorter) in self.prefixes:
                return Own.INSIDE
        return None
