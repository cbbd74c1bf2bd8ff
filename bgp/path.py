"""A path: what one source says of a prefix (RFC 4271 section 1.1, "Route").

Promises: frozen values. Does not know: which path is best, tables, sessions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from bgp.wire.attributes import DEFAULT_LOCAL_PREF, PathAttributes
from bgp.wire.families import Address
from bgp.wire.iana import WellKnown


@dataclass(frozen=True, slots=True)
class Source:
    """Where a path came from: a peer, as it was in the session that announced it, or ourselves."""

    key: int
    """Names the source: the peer's address as a number; 0 is ourselves."""
    address: Address
    router_id: IPv4Address
    internal: bool
    client: bool = False
    """Whether it is a client of ours (RFC 4456)."""
    path_id: int | None = None
    """Which of several paths of that peer (RFC 7911); None: the peer announces one."""

    @property
    def is_own(self) -> bool:
        """Whether we originate the path."""
        return self.key == 0


@dataclass(frozen=True, slots=True)
class Path:
    """A prefix's attributes as one source gave them."""

    attributes: PathAttributes
    source: Source


def local_pref(path: Path) -> int:
    """LOCAL_PREF, or its default where the peer gave none."""
    given = path.attributes.local_pref
    return DEFAULT_LOCAL_PREF if given is None else given


def long_lived_stale(path: Path) -> Path:
    """The path with the community that makes it the last choice (RFC 9494 section 4.3)."""
    tagged = dict.fromkeys((*path.attributes.communities, int(WellKnown.LLGR_STALE)))
    return Path(replace(path.attributes, communities=tuple(tagged)), path.source)
