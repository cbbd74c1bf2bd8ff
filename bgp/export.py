"""What is told to whom, and with which attributes (RFC 4271 section 5.1 and 9.2, RFC 1997).

Promises: pure; one function from a path and a listener to attributes or nothing. What an iBGP peer taught is told to
another one only where one of them is our client, so in a mesh a node tells only what it originates.
Does not know: sessions, RIBs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from bgp.attributes import PathAttributes, prepended
from bgp.config import NextHopMode
from bgp.decision import Path, local_pref
from bgp.families import Address
from bgp.iana import WellKnown

NON_TRANSITIVE = 0x40
"""RFC 4360 section 2: such an extended community stays inside the AS."""


@dataclass(frozen=True, slots=True)
class Listener:
    """The peer that would be told."""

    key: int
    """As in `Source.key`."""
    internal: bool
    local_as: int
    next_hop: Address
    """Our address on the session."""
    next_hop_mode: NextHopMode
    client: bool
    """Whether it is a client of ours (RFC 4456)."""
    cluster_id: IPv4Address


def outgoing(path: Path, to: Listener) -> PathAttributes | None:
    """The attributes as told, or None when this listener is not told of the path."""
    source = path.source
    if source.key == to.key or not _may_leave(path.attributes.communities, to):
        return None
    if to.internal:
        return _internal(path, to)
    return _external(path, to)


def _may_leave(communities: tuple[int, ...], to: Listener) -> bool:
    if not communities:
        return True
    if WellKnown.NO_ADVERTISE in communities:
        return False
    confined = WellKnown.NO_EXPORT in communities or WellKnown.NO_EXPORT_SUBCONFED in communities
    return to.internal or not confined


def _internal(path: Path, to: Listener) -> PathAttributes | None:
    attributes = path.attributes
    if path.source.is_own:
        return replace(attributes, next_hop=to.next_hop, local_pref=local_pref(path))
    if path.source.internal:
        return _reflected(path, to) if path.source.client or to.client else None
    next_hop = _next_hop(path, to)
    if attributes.local_pref is None or next_hop != attributes.next_hop:
        return replace(attributes, local_pref=local_pref(path), next_hop=next_hop)
    return attributes


def _next_hop(path: Path, to: Listener) -> Address | None:
    """RFC 4271 section 5.1.3, unless the peer's configuration says otherwise."""
    mode = to.next_hop_mode
    if mode is NextHopMode.AUTO:
        mode = NextHopMode.KEEP if to.internal else NextHopMode.SELF
    return to.next_hop if mode is NextHopMode.SELF or path.source.is_own else path.attributes.next_hop


def _reflected(path: Path, to: Listener) -> PathAttributes:
    """RFC 4456 section 8: only the two attributes that detect loops change, unless a next hop is ordered."""
    attributes = path.attributes
    return replace(
        attributes,
        next_hop=_next_hop(path, to),
        originator_id=attributes.originator_id or path.source.router_id,
        cluster_list=(to.cluster_id, *attributes.cluster_list),
    )


def _external(path: Path, to: Listener) -> PathAttributes:
    attributes = path.attributes
    return replace(
        attributes,
        as_path=prepended(attributes.as_path, to.local_as),
        next_hop=_next_hop(path, to),
        local_pref=None,
        med=attributes.med if path.source.is_own else None,
        originator_id=None,
        cluster_list=(),
        extended_communities=tuple(
            one for one in attributes.extended_communities if not one[0] & NON_TRANSITIVE
        ),
    )
