"""Export: which path goes to which peer, and with which attributes (RFC 4271 sections 5.1 and 9.2, RFC 1997).

Promises: pure; one function from a path and a peer to attributes or nothing. What an iBGP peer announced goes to
another one only where one of them is our client, so in a mesh a node advertises only what it originates.
Does not know: sessions, RIBs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from bgp.path import Path, Source, local_pref
from bgp.peer_config import NextHopMode
from bgp.policy.origination import OwnBlocks
from bgp.policy.policy import Candidate, CompiledPolicy
from bgp.wire.attributes import PathAttributes, prepended
from bgp.wire.families import Address, Family, family_of
from bgp.wire.iana import WellKnown
from bgp.wire.nlri import Nlri

Export = Callable[[Nlri, Path], PathAttributes | None]
"""What of a prefix's path is advertised; None: nothing."""
NON_TRANSITIVE = 0x40
"""Bit of an extended community that stays inside the AS (RFC 4360 section 2)."""


@dataclass(frozen=True, slots=True)
class ExportTarget:
    """A peer, as far as it matters to what it is advertised in one family."""

    key: int
    """The peer's address as a number, as in `Source.key`."""
    internal: bool
    local_as: int
    next_hop: Address | None
    """Our address; None: we have none of this family, so what has no next hop of its own cannot be advertised."""
    next_hop_mode: NextHopMode
    client: bool
    """Whether it is a client of ours (RFC 4456)."""
    cluster_id: IPv4Address
    link_local: IPv6Address | None = None
    """Our address on the link that we share with the peer (RFC 2545 section 3)."""
    graceful_shutdown: bool = False
    """Whether we are about to leave (RFC 8326)."""
    long_lived: bool = False
    """Whether it knows long-lived stale paths for what they are (RFC 9494)."""
    takes_ipv6: bool = True
    """Whether prefixes of this family may have an IPv6 next hop: of IPv6 always, of IPv4 if agreed (RFC 8950)."""


def export_attributes(path: Path, to: ExportTarget) -> PathAttributes | None:
    """The attributes as advertised, or None when the path does not go to this peer."""
    return _exported(_with_our_as(path, to), to)


def _with_our_as(path: Path, to: ExportTarget) -> Path:
    """The path as the export policy sees it: an external peer's has our AS in front (RFC 4271 section 5.1.2).

    Calico's BIRD (1.6, bgp_import_control) prepends before its filters run, so `asPathPrefix` there begins with the
    node's own AS, and what `prependASPath` adds stands before it on the wire.
    """
    if to.internal:
        return path
    attributes = replace(path.attributes, as_path=prepended(path.attributes.as_path, to.local_as))
    return Path(attributes, path.source)


def _exported(path: Path, to: ExportTarget) -> PathAttributes | None:
    source = path.source
    if source.key == to.key or not _may_leave(path.attributes.communities, to):
        return None
    exported = _internal(path, to) if to.internal else _external(path, to)
    if exported is None or exported.next_hop is None:
        return None
    if not to.long_lived and WellKnown.LLGR_STALE in exported.communities:
        exported = _confined(exported)
    return (
        _last_resort(exported, to) if to.graceful_shutdown and exported.next_hop == to.next_hop else exported
    )


def _confined(exported: PathAttributes) -> PathAttributes:
    """RFC 9494 section 4.6: a long-lived stale path for an internal peer that does not know what that is."""
    tagged = dict.fromkeys((*exported.communities, int(WellKnown.NO_EXPORT)))
    return replace(exported, communities=tuple(tagged), local_pref=0)


def _last_resort(exported: PathAttributes, to: ExportTarget) -> PathAttributes:
    """RFC 8326 section 4: any other path is better than one through us."""
    tagged = dict.fromkeys((*exported.communities, int(WellKnown.GRACEFUL_SHUTDOWN)))
    return replace(exported, communities=tuple(tagged), local_pref=0 if to.internal else exported.local_pref)


def why_not_exported(path: Path, to: ExportTarget) -> str:
    """Why `export_attributes` answers None, in words for the operator."""
    if path.source.key == to.key:
        return "the peer itself announced it"
    if _is_unknown(path.attributes.communities, to):
        return "it is long-lived stale, and the peer does not know what that is (RFC 9494)"
    if not _may_leave(path.attributes.communities, to):
        return "its communities confine it"
    if to.internal and path.source.internal and not path.source.is_own:
        return "an internal peer announced it, and neither of the two is our client"
    return "we have no next hop for it"


def exporter(to: ExportTarget, policy: CompiledPolicy | None, blocks: OwnBlocks) -> Export:
    """`export_attributes` with the peer's export policy, for one round over many prefixes.

    Most prefixes of a round share their paths, so each path, and each result of the policy, is exported once. The
    policy's rules see the attributes as they were learned, with our AS in front if the peer is external.
    """
    # By identity: paths are shared, and alive meanwhile.
    exported: dict[int, tuple[Path, PathAttributes | None]] = {}
    changed: dict[tuple[PathAttributes, Source], PathAttributes | None] = {}

    def without_policy(path: Path) -> tuple[Path, PathAttributes | None]:
        found = exported.get(id(path))
        if found is None:
            seen = _with_our_as(path, to)
            found = exported[id(path)] = seen, _exported(seen, to)
        return found

    def with_policy(prefix: Nlri, path: Path) -> PathAttributes | None:
        seen, unchanged = without_policy(path)
        if unchanged is None or policy is None:
            return unchanged
        learned = not path.source.is_own
        result = policy(Candidate(prefix, seen.attributes, learned, blocks.relation(prefix)))
        if result.attributes is None or result.attributes is seen.attributes:
            return unchanged if result.attributes is not None else None
        key = result.attributes, path.source
        if key not in changed:
            changed[key] = _exported(Path(*key), to)
        return changed[key]

    return with_policy if policy is not None else lambda _, path: without_policy(path)[1]


def own_next_hop(candidates: Iterable[Address | None], family: Family) -> Address | None:
    """The first of our addresses that can be a next hop in this family."""
    for one in candidates:
        if one is not None and family_of(one) is family and not one.is_unspecified and not one.is_link_local:
            return one
    return None


def _may_leave(communities: tuple[int, ...], to: ExportTarget) -> bool:
    if not communities:
        return True
    if WellKnown.NO_ADVERTISE in communities or _is_unknown(communities, to):
        return False
    confined = WellKnown.NO_EXPORT in communities or WellKnown.NO_EXPORT_SUBCONFED in communities
    return to.internal or not confined


def _is_unknown(communities: tuple[int, ...], to: ExportTarget) -> bool:
    """RFC 9494 section 4.3: whether a long-lived stale path must not go to an external peer that does not know them."""
    return not to.internal and not to.long_lived and WellKnown.LLGR_STALE in communities


def _internal(path: Path, to: ExportTarget) -> PathAttributes | None:
    attributes = path.attributes
    if path.source.is_own:
        return replace(attributes, local_pref=local_pref(path), **_next_hops(path, to))
    if path.source.internal:
        return _reflected(path, to) if path.source.client or to.client else None
    next_hops = _next_hops(path, to)
    if attributes.local_pref is None or attributes.link_local or next_hops["next_hop"] != attributes.next_hop:
        return replace(attributes, local_pref=local_pref(path), **next_hops)
    return attributes


def _next_hops(path: Path, to: ExportTarget) -> dict[str, Any]:
    """RFC 4271 section 5.1.3, unless the peer's configuration says otherwise.

    A link-local next hop goes no further: nobody says that this peer is on that link (RFC 2545 section 3). Nor does an
    IPv6 one of an IPv4 prefix to a peer that does not know of such. Where there is no other, ours is the next hop.
    """
    mode = to.next_hop_mode
    if mode is NextHopMode.AUTO:
        mode = NextHopMode.KEEP if to.internal else NextHopMode.SELF
    known = path.attributes.next_hop
    is_theirs = known is not None and known.version == 6
    stays = not is_theirs or (to.takes_ipv6 and not (known is not None and known.is_link_local))
    if mode is NextHopMode.SELF or path.source.is_own or not stays:
        return {"next_hop": to.next_hop, "link_local": to.link_local}
    return {"next_hop": path.attributes.next_hop, "link_local": None}


def _reflected(path: Path, to: ExportTarget) -> PathAttributes:
    """RFC 4456 section 8: only the two attributes that detect loops change, unless a next hop is ordered."""
    attributes = path.attributes
    return replace(
        attributes,
        originator_id=attributes.originator_id or path.source.router_id,
        cluster_list=(to.cluster_id, *attributes.cluster_list),
        **_next_hops(path, to),
    )


def _external(path: Path, to: ExportTarget) -> PathAttributes:
    attributes = path.attributes
    return replace(
        attributes,
        local_pref=None,
        med=attributes.med if path.source.is_own else None,
        originator_id=None,
        cluster_list=(),
        extended_communities=tuple(
            one for one in attributes.extended_communities if not one[0] & NON_TRANSITIVE
        ),
        **_next_hops(path, to),
    )
