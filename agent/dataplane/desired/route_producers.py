"""Facts to routes: local pods, own blocks, other nodes' blocks and addresses in each encapsulation.

Each class of route has one producer. Where several have a route for one key, `merge` alone decides, by their classes.
Promises: pure; the route forms are those of `ip route` on a Calico node; a route whose next hop cannot be reached
directly is not desired, because the kernel would refuse it: then it is noted why; every route has its class.
Does not know: what the kernel has, netlink, BGP's decision (it gets best paths).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property, lru_cache
from ipaddress import ip_network
from itertools import compress
from operator import itemgetter
from typing import Any, Generic, TypeVar

from agent.dataplane.cooperative import PIECE, slices
from agent.dataplane.desired.combined_targets import combine
from agent.dataplane.inputs.facts import Endpoint, Facts, NodeAddresses
from agent.dataplane.inputs.next_hops import Resolution
from agent.dataplane.kernel.calico_names import TUNL0, VXLAN6_DEVICE, VXLAN_DEVICE
from agent.netlink.objects import Address, Prefix, Route, RouteKey, RouteTarget, RouteType, Scope
from bgp.rib.multipath import NextHops, NextHopSet, single_hops
from bgp.wire.families import Family
from bgp.wire.nlri import spans
from ipam.model import EncapsulationMode, NodeName, Pool

T = TypeVar("T")

FAMILIES = {4: Family.IPV4, 6: Family.IPV6}
"""By the version of IP."""
PODS_REMEMBERED = 4096
"""Most pods of a node whose routes are not made anew by each pass."""


class RouteClass(IntEnum):
    """What a desired route is for; of several for one key the one of the lowest class is desired.

    As in Felix (felix/routetable). It goes with the target, of which it is no part: the kernel does not know it.
    """

    WORKLOAD = 1
    """To a pod of this node."""
    OWN_BLOCK = 2
    """The blackhole of a block of this node."""
    PEER_GATEWAY = 3
    """To a BGP peer that is on no link, through its gateway (`reachableBy`)."""
    TUNNEL_GATEWAY = 4
    """To another node's VTEP of IPv6, over the VXLAN device."""
    BORROWED_ADDRESS = 5
    """From the datastore: to an address that another node borrowed."""
    REMOTE_BLOCK = 6
    """From the datastore: to a block that another node claims."""
    LEARNED = 7
    """Along BGP's best path."""


@dataclass(frozen=True, slots=True)
class NoRoute:
    """Why there is no route to what a BGP peer announces, or another node claims."""

    end: Address | NodeName
    """The next hop, or the node."""
    why: str
    """A sentence about the end; empty: BGP is to say where it is."""
    is_bare: bool = False
    """No tunnel is needed: any other route that covers the prefix leads there as well."""


Without = dict[RouteKey, NoRoute]


def merge(*producers: Mapping[RouteKey, Route]) -> dict[RouteKey, Route]:
    """The routes of all producers; of several for one key the one of the lowest class."""
    merged: dict[RouteKey, Route] = {}
    for routes in producers:
        # One by one only where two producers meet: of very many routes few do.
        contested = [merged[key] for key in merged.keys() & routes.keys()]
        merged.update(routes)
        merged.update(
            {one.key: one for one in contested if one[1].route_class < routes[one[0]][1].route_class}
        )
    return merged


def workload_routes(facts: Facts) -> Iterator[Route]:
    """To this node's pods."""
    for endpoint in facts.endpoints:
        yield from routes_to_pod(endpoint, facts.settings.protocols.workload)


def routes_to_pod(endpoint: Endpoint, protocol: int) -> Iterator[Route]:
    """To one of them."""
    return (_workload_route(address, endpoint.interface, protocol) for address in endpoint.addresses)


@lru_cache(maxsize=PODS_REMEMBERED)
def _workload_route(address: Address, interface: str, protocol: int) -> Route:
    """`192.168.41.137 dev calie486eacd845 scope link`; IPv6 knows no scopes of routes."""
    scope = Scope.LINK if address.version == 4 else Scope.UNIVERSE
    return Route(
        RouteKey(ip_network(address)),
        device=interface,
        protocol=protocol,
        scope=scope,
        route_class=RouteClass.WORKLOAD,
    )


def datastore_routes(facts: Facts, without: Without | None = None) -> tuple[Iterator[Route], ...]:
    """What follows from the datastore, class by class; a route to a gateway comes before those through it.

    `without` takes what has no route.
    """
    return (
        _own_blocks(facts),
        _peer_gateways(facts),
        _tunnel_gateways(facts),
        _remote_routes(facts, facts.borrowed, RouteClass.BORROWED_ADDRESS, without),
        _remote_routes(facts, facts.block_owners, RouteClass.REMOTE_BLOCK, without),
    )


def _own_blocks(facts: Facts) -> Iterator[Route]:
    """`blackhole 192.168.41.192/26 proto bird`: what no pod has must not leave by the default route."""
    target = RouteTarget(
        RouteType.BLACKHOLE, protocol=facts.settings.protocols.blackhole, route_class=RouteClass.OWN_BLOCK
    )
    for block, owner in facts.block_owners.items():
        if owner == facts.node and block.prefixlen < block.max_prefixlen:
            # A blackhole of one address would have the key of the pod's own route.
            yield Route.from_target(RouteKey(block), target)


def _peer_gateways(facts: Facts) -> Iterator[Route]:
    targets = _Targets(facts, RouteClass.PEER_GATEWAY)
    for peer in facts.peer_gateways:
        target = targets.direct(peer, peer.version)
        if target is not None:
            yield Route.from_target(RouteKey(ip_network(peer)), target)


def _tunnel_gateways(facts: Facts) -> Iterator[Route]:
    """To other nodes' VTEPs of IPv6, which the routes to their blocks name as gateways.

    The kernel takes an IPv6 gateway, `onlink` or not, only where the route that leads to it, the default route apart,
    is over the same device (net/ipv6/route.c, ip6_route_check_nh_onlink). A VTEP has an address of its node's block.
    So a route to that block, or to a network around it, over the underlay would have the tunnel's own route refused:
    one from before the tunnel was there, or the host's. IPv4 knows no such check.
    """
    route_class = RouteClass.TUNNEL_GATEWAY
    targets = _Targets(facts, route_class)
    found = (
        targets.by_vxlan(6, node, pool)
        for pool in facts.pools
        if pool.cidr.version == 6 and pool.vxlan is not EncapsulationMode.NEVER
        for node in facts.nodes.values()
        if node is not facts.me
    )
    for target in found:
        if target is not None and target.device == VXLAN6_DEVICE and target.gateway is not None:
            key = RouteKey(ip_network(target.gateway))
            yield Route(key, device=target.device, protocol=target.protocol, route_class=route_class)


def _remote_routes(
    facts: Facts, owners: Mapping[Prefix, NodeName], route_class: RouteClass, without: Without | None
) -> Iterator[Route]:
    """To what other nodes own."""
    others = ((RouteKey(prefix), owner) for prefix, owner in owners.items() if owner != facts.node)
    targets = _Targets(facts, route_class)
    return _routes(facts, others, targets.of_owner, targets.why_not_of_owner, without)


def learned_routes(
    facts: Facts, hops: Iterable[tuple[RouteKey, NextHops | None]], without: Without | None = None
) -> Iterator[Route]:
    """Along BGP's used paths, given as (key, next hop, several of them, or None); none to services, or without a link.

    `without` takes the prefixes to which no link leads. Of several next hops those to which one leads are enough.

    What no peer may announce was refused on import; that is asked again here because the facts may have changed since.
    """
    families = FAMILIES.items()
    refusals = {version: facts.from_peers.compiled(family) for version, family in families}
    are_accepted = {version: facts.from_peers.compiled_for_many(family) for version, family in families}
    services = _Finder((network, True) for network in facts.services)

    def admitted(keys: Sequence[RouteKey]) -> Iterable[bool] | None:
        version, packed = _of_one_version(keys)
        if version and are_accepted[version](packed) and services.of_all(version, packed) == (True, None):
            return None
        return [
            not (services(key) or ((refusal := refusals[key[0]]) is not None and refusal(key[1])))
            for key in keys
        ]

    targets = _Targets(facts, RouteClass.LEARNED)
    return _routes(facts, hops, targets.of_next_hops, targets.why_not_by_next_hops, without, admitted)


def _of_one_version(keys: Sequence[RouteKey]) -> tuple[int, Sequence[bytes]]:
    """The version of IP and the packed prefixes of some keys; a version of 0: they have both."""
    versions, packed, _, _ = zip(*keys, strict=True)
    return (versions[0] if versions.count(versions[0]) == len(versions) else 0), packed


def resolving_prefixes(facts: Facts) -> Callable[[RouteKey], bool]:
    """Which learned prefixes may lead to next hops: those that get routes, but for the pods' own networks."""
    refusals = {version: facts.from_peers.compiled(family) for version, family in FAMILIES.items()}
    is_elsewhere = _Finder(
        (network, True) for network in (*facts.services, *(pool.cidr for pool in facts.pools))
    )

    def admits(key: RouteKey) -> bool:
        refusal = refusals[key.version]
        return not (is_elsewhere(key) or (refusal is not None and refusal(key.packed)))

    return admits


def _routes(
    facts: Facts,
    ends: Iterable[tuple[RouteKey, NextHops | NodeName | None]],
    target_of: Callable[[int, Any, Pool | None], RouteTarget | None],
    why_not: Callable[[int, Any, Pool | None], NoRoute | None],
    without: Without | None,
    admitted: Callable[[Sequence[RouteKey]], Iterable[bool] | None] = lambda keys: None,
) -> Iterator[Route]:
    """Routes to other machines, each named by its next hop, by several, or by its node's name.

    Very many keys share few of these, and a target's routes are compared, moved and encoded together. So a target is
    asked for once per end, pool and version of IP, by identities, which cost nothing to hash. Ends that are equal but
    not the same object are asked for again, and `_Targets` answers with the same target. `admitted` says of some keys
    which get no route at all; None: all do.
    """
    by_end = _EndTargets(target_of, why_not)
    pool_of = _Finder((pool.cidr, pool) for pool in facts.pools)
    for piece in slices(ends, PIECE):
        pairs = piece if all(map(itemgetter(1), piece)) else [pair for pair in piece if pair[1] is not None]
        if pairs and (chosen := admitted([key for key, _ in pairs])) is not None:
            pairs = list(compress(pairs, chosen))
        if not pairs:
            continue
        keys, hops = zip(*pairs, strict=True)
        version, packed = _of_one_version(keys)
        is_one, pool = pool_of.of_all(version, packed) if version else (False, None)
        targets = (
            by_end.to_all(version, pool, hops)
            if is_one
            else by_end.to_each(keys, list(map(pool_of, keys)), hops)
        )
        if all(targets):
            yield from Route.of_targets(keys, targets)
            continue
        for (key, hop), target in zip(pairs, targets, strict=True):
            if target is not None:
                yield Route.from_target(key, target)
            elif without is not None and (why := by_end.why_not(key[0], pool_of(key), hop)) is not None:
                without[key] = why


class _EndTargets:
    """The targets of ends, asked for once per end, pool and version of IP."""

    def __init__(
        self,
        target_of: Callable[[int, Any, Pool | None], RouteTarget | None],
        why_not: Callable[[int, Any, Pool | None], NoRoute | None],
    ) -> None:
        self._target_of = target_of
        self._why_not = why_not
        self._targets: dict[tuple[int, int], dict[int, Any]] = {}
        """By version and pool, then by end: all by identity."""
        self._held: list[object] = []
        """The ends: as long as one lives nothing else has its identity."""
        self._reasons: dict[tuple[int, int, int], NoRoute | None] = {}

    def to_all(self, version: int, pool: Pool | None, ends: Sequence[Any]) -> list[Any]:
        """The target of each end, or None."""
        known = self._targets.setdefault((version, id(pool)), {})
        numbers = list(map(id, ends))
        if not known.keys() >= set(numbers):
            for number, end in dict(zip(numbers, ends, strict=True)).items():
                if number not in known:
                    known[number] = self._target_of(version, end, pool)
                    self._held.append(end)
        return list(map(known.__getitem__, numbers))

    def to_each(
        self, keys: Sequence[RouteKey], pools: Sequence[Pool | None], ends: Sequence[Any]
    ) -> list[Any]:
        """The same of keys in several pools, or of both versions."""
        groups: dict[tuple[int, int], list[int]] = {}
        for number, (key, pool) in enumerate(zip(keys, pools, strict=True)):
            groups.setdefault((key[0], id(pool)), []).append(number)
        found: list[Any] = [None] * len(keys)
        for (version, _), numbers in groups.items():
            targets = self.to_all(version, pools[numbers[0]], [ends[number] for number in numbers])
            for number, target in zip(numbers, targets, strict=True):
                found[number] = target
        return found

    def why_not(self, version: int, pool: Pool | None, end: Any) -> NoRoute | None:
        """Why an end that was asked for has no target."""
        asked = version, id(pool), id(end)
        if asked not in self._reasons:
            self._reasons[asked] = self._why_not(version, end, pool)
        return self._reasons[asked]


class _Targets:
    """Targets on other machines for routes of one class; equal targets are one object."""

    def __init__(self, facts: Facts, route_class: RouteClass) -> None:
        self._facts = facts
        self._class = route_class
        self._protocols = facts.settings.protocols
        self._shared: dict[RouteTarget, RouteTarget] = {}
        self._direct: dict[tuple[int, Address], RouteTarget | None] = {}
        """By version of IP of the destination, and next hop: equal ones need not be the same object."""
        self._sources: dict[int, Address | None] = {}
        """Version of IP -> this node's address, where it is on its loopback."""

    def of_next_hops(self, version: int, hops: NextHops, pool: Pool | None) -> RouteTarget | None:
        """To one next hop, or by weight to those of several that are in reach; None: none of them is."""
        if not isinstance(hops, NextHopSet):
            return self.of_next_hop(version, hops, pool)
        members = ((self.of_next_hop(version, hop, pool), weight) for hop, weight in hops.members)
        found = [(target, weight) for target, weight in members if target is not None]
        if not found:
            return None
        target = combine(found)
        return self._shared.setdefault(target, target)

    def of_next_hop(self, version: int, next_hop: Address, pool: Pool | None) -> RouteTarget | None:
        """To a BGP next hop, for prefixes of one version of IP and one pool; None: it is out of reach."""
        if _is_wrong_version(version, next_hop, pool):
            return None
        if pool is not None and pool.vxlan is not EncapsulationMode.NEVER:
            return self._vxlan_next_hop(version, next_hop, pool)
        if pool is not None and self._encapsulated(pool.ipip, next_hop):
            return self._target(next_hop, TUNL0, self._protocols.learned)
        return self.direct(next_hop, version)

    def of_owner(self, version: int, owner: NodeName, pool: Pool | None) -> RouteTarget | None:
        """To another node by the datastore alone, for prefixes as above; None: BGP is to say, or it is out of reach."""
        facts, node = self._facts, self._facts.nodes.get(owner)
        if pool is None or node is None:
            return None
        if pool.vxlan is not EncapsulationMode.NEVER:
            return self.by_vxlan(version, node, pool)
        underlay = node.on(version)
        if underlay is None or not facts.settings.from_datastore:
            return None
        if self._encapsulated(pool.ipip, underlay.ip):
            return self._target(underlay.ip, TUNL0, self._protocols.datastore)
        way = facts.resolution_of(underlay.ip)
        if any(hop.gateway != underlay.ip for hop in way.hops):
            return None  # a router in between knows nothing of it, for no BGP tells it
        return self._along(way, self._protocols.datastore, self._source(version), onlink=True)

    def direct(self, next_hop: Address, version: int) -> RouteTarget | None:
        """To a next hop without encapsulation, as the kernel's routes lead there; None: they do not."""
        key = version, next_hop
        if key not in self._direct:
            way, protocol = self._facts.resolution_of(next_hop), self._protocols.learned
            self._direct[key] = self._along(way, protocol, self._source(version))
        return self._direct[key]

    def _along(
        self, way: Resolution, protocol: int, source: Address | None, *, onlink: bool = False
    ) -> RouteTarget | None:
        if not way.hops:
            return None
        hops = tuple(replace(hop, onlink=True) for hop in way.hops) if onlink else way.hops
        target = RouteTarget(protocol=protocol, route_class=self._class, source=source).through(hops)
        return self._shared.setdefault(target, target)

    def why_not_by_next_hops(self, version: int, hops: NextHops, pool: Pool | None) -> NoRoute:
        """Why `of_next_hops` has no target: of several next hops the first one's reason."""
        return self.why_not_by_next_hop(version, single_hops(hops)[0], pool)

    def why_not_by_next_hop(self, version: int, next_hop: Address, pool: Pool | None) -> NoRoute:
        """Why `of_next_hop` has no target."""
        if _is_wrong_version(version, next_hop, pool):
            return NoRoute(next_hop, f"it is no IPv{version} address, as these prefixes need")
        if pool is not None and pool.vxlan is not EncapsulationMode.NEVER:
            node = self._nodes.get(next_hop)
            if node is None:
                return NoRoute(next_hop, f"it is no node's address, and pool {pool.name} goes by VXLAN")
            if node is self._facts.me:
                return NoRoute(next_hop, "it is this node's own address")
        gateway = self._facts.peer_gateways.get(next_hop)
        of = f"of its gateway {gateway}: " if gateway is not None else ""
        return NoRoute(next_hop, f"{of}{self._facts.resolution_of(next_hop).why}")

    def why_not_of_owner(self, version: int, owner: NodeName, pool: Pool | None) -> NoRoute | None:
        """Why `of_owner` has no target; None: for a reason that concerns all nodes, or lies in the pools."""
        facts, node = self._facts, self._facts.nodes.get(owner)
        if pool is None or facts.me is None:
            return None
        if node is None:
            return NoRoute(owner, "it is not known, or has no address")
        if (underlay := node.on(version)) is None:
            return NoRoute(owner, f"it has no IPv{version} address")
        if pool.vxlan is EncapsulationMode.NEVER and not facts.settings.from_datastore:
            if pool.disable_bgp_export:
                return None  # nobody announces it, because somebody wants it so
            return NoRoute(owner, "", is_bare=pool.ipip is EncapsulationMode.NEVER)
        if pool.vxlan is not EncapsulationMode.NEVER and node.vtep(version) is None:
            return NoRoute(
                owner, f"it has no address on its {VXLAN6_DEVICE if version == 6 else VXLAN_DEVICE}"
            )
        why = facts.resolution_of(underlay.ip).why
        return NoRoute(owner, why or "it is behind a router, which knows nothing of its blocks without BGP")

    def _target(
        self,
        gateway: Address | None,
        device: str | None,
        protocol: int,
        *,
        onlink: bool = True,
        source: Address | None = None,
    ) -> RouteTarget | None:
        if gateway is None or device is None:
            return None
        target = RouteTarget(
            RouteType.UNICAST,
            gateway,
            device,
            protocol,
            onlink=onlink,
            route_class=self._class,
            source=source,
        )
        return self._shared.setdefault(target, target)

    def _source(self, version: int) -> Address | None:
        """What this host sends from on the underlay, where that is none of the link's own addresses.

        Into a tunnel it sends from the tunnel's address, as on every node of Calico's.
        """
        if version not in self._sources:
            self._sources[version] = self._facts.loopback_address(version)
        return self._sources[version]

    def _encapsulated(self, mode: EncapsulationMode, node: Address) -> bool:
        """Whether packets to a node are; CrossSubnet spares this node's own subnet, by the local prefix alone."""
        if mode is not EncapsulationMode.CROSS_SUBNET:
            return mode is EncapsulationMode.ALWAYS
        own = self._facts.me.on(node.version) if self._facts.me is not None else None
        return own is None or node not in own.network

    def by_vxlan(self, version: int, node: NodeAddresses, pool: Pool) -> RouteTarget | None:
        """Through a node's VTEP, or over the underlay where the pool spares its subnet.

        None where one of both has no address of this version of IP: no tunnel carries anything there.
        """
        underlay, me = node.on(version), self._facts.me
        if underlay is None or (me is not None and me.on(version) is None):
            return None
        if self._encapsulated(pool.vxlan, underlay.ip):
            device = VXLAN6_DEVICE if version == 6 else VXLAN_DEVICE
            return self._target(node.vtep(version), device, self._protocols.tunnel)
        parent = self._facts.parent_of(version)
        return self._target(underlay.ip, parent.name if parent else None, self._protocols.datastore)

    def _vxlan_next_hop(self, version: int, next_hop: Address, pool: Pool) -> RouteTarget | None:
        """To a BGP next hop in a pool of VXLAN: an address borrowed from another node's block, or a VTEP is missing.

        VXLAN takes over only when the other node's VTEP is there. The pool may have just become one of VXLAN: until
        then packets go where they went before, and tunl0 is up as long as others may still send through it.
        """
        facts = self._facts
        node = self._nodes.get(next_hop)
        if node is None:
            return None
        target = self.by_vxlan(version, node, pool) if node is not facts.me else None
        if target is not None or node.vtep(version) is not None:
            return target
        tunnel = facts.links.get(TUNL0) if version == 4 else None
        if tunnel is not None and tunnel.up:
            return self._target(next_hop, TUNL0, self._protocols.learned)
        return self.direct(next_hop, version)

    @cached_property
    def _nodes(self) -> Mapping[Address, NodeAddresses]:
        """All nodes by their addresses on the underlay."""
        nodes = self._facts.nodes.values()
        return {own.ip: node for node in nodes for own in (node.underlay, node.underlay6) if own is not None}


def _is_wrong_version(version: int, next_hop: Address, pool: Pool | None) -> bool:
    """Whether the kernel takes no such next hop: one of IPv6 serves IPv4 prefixes (RFC 8950), but no tunnel."""
    if next_hop.version == version:
        return False
    encapsulates = pool is not None and (pool.vxlan, pool.ipip) != (EncapsulationMode.NEVER,) * 2
    return version == 6 or encapsulates


class _Finder(Generic[T]):
    """Finds what belongs to the first of some networks that holds a key.

    It is called for very many keys, so no address is made of them. A packed prefix, like a BGP NLRI, has only the
    octets that its length needs, and bytes compare like addresses: a key is inside a network when it is not shorter,
    and its octets lie between the network's own first ones and its last address.
    """

    def __init__(self, networks: Iterable[tuple[Prefix, T]]) -> None:
        self._table: dict[int, list[tuple[int, bytes, bytes, T]]] = {version: [] for version in FAMILIES}
        for network, what in networks:
            key, last = RouteKey(network), network.broadcast_address.packed
            self._table[key.version].append((key.length, key.packed[1:], last, what))

    def __call__(self, key: RouteKey) -> T | None:
        version, packed, _, _ = key
        octets, length = packed[1:], packed[0]
        for shortest, first, last, what in self._table[version]:
            if first <= octets <= last and length >= shortest:
                return what
        return None

    def of_all(self, version: int, packed: Collection[bytes]) -> tuple[bool, T | None]:
        """Whether the same belongs to all of some packed prefixes, found by the ends of their spans; and what."""
        table = self._table[version]
        found = [_of_span(table, *span) for span in spans(packed)] if table else [(True, None)]
        if not all(is_one and what is found[0][1] for is_one, what in found):
            return False, None
        return found[0]


def _of_span(
    table: Iterable[tuple[int, bytes, bytes, T]], length: int, low: bytes, high: bytes
) -> tuple[bool, T | None]:
    """The same of prefixes of one length from one to another."""
    for shortest, first, last, what in table:
        if length < shortest or high < first or low > last:
            continue
        return (True, what) if first <= low and high <= last else (False, None)
    return True, None
