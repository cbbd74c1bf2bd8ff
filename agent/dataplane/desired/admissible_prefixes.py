"""Which prefixes may be programmed, announced or believed: the one rule, for whoever says something of a prefix.

Strategy. The rule is a few filters (RFC 7454 section 6) that follow from the facts: for claims in the datastore, for
pods' addresses, for the node-to-node mesh, for peers that a BGPPeer names. What fails is taken out of the facts, so no
producer of routes, sysctls or originations ever sees it; the speaker gets the two filters that are BGP's.
Promises: pure but for its memory; nobody has what is no unicast address of others (RFC 1122, RFC 4291, RFC 6890) or
this host's own. A pod's route and an own block that were in force stay so when their pool goes or another network
comes to lie over them; only this host's addresses, its gateways' and the datastore's end them.
Does not know: BGP's sessions, the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from ipaddress import ip_network

from agent.dataplane.inputs.facts import Endpoint, Facts, NodeAddresses, RefusedClaim
from agent.dataplane.kernel.calico_names import OUR_TUNNELS, WORKLOAD_PREFIX, is_workload_device
from agent.dataplane.kernel.dataplane_objects import host_links
from agent.memo import Memo
from agent.netlink.objects import Address, Link, Prefix, RouteKey
from bgp.policy.prefix_filter import SHORTEST_PREFIX, Named, PrefixFilter, Refusal
from bgp.wire.families import family_of
from bgp.wire.nlri import pack
from ipam.keys import affinity_key
from ipam.model import NodeName

MARTIANS: tuple[Named, ...] = tuple(
    (ip_network(text), what)
    for text, what in (
        ("0.0.0.0/8", "this network (RFC 1122)"),
        ("127.0.0.0/8", "loopback (RFC 1122)"),
        ("169.254.0.0/16", "link-local (RFC 3927)"),
        ("224.0.0.0/3", "multicast or reserved (RFC 1112)"),
        ("::/96", "unspecified, loopback or IPv4-compatible (RFC 4291)"),
        ("::ffff:0:0/96", "IPv4-mapped (RFC 4291)"),
        ("fe80::/10", "link-local (RFC 4291)"),
        ("ff00::/8", "multicast (RFC 4291)"),
    )
)
"""What is nobody's unicast address, in the reach of a route."""
NO_NEXT_HOPS = tuple(one for one in MARTIANS if one[0] != ip_network("fe80::/10"))
"""A link-local next hop is a neighbour of the peer's own link (RFC 2545)."""
_Refused = tuple[RefusedClaim, ...]
_Admitted = tuple[Mapping[Prefix, NodeName], _Refused]
_Networks = tuple[tuple[Address, ...], tuple[Address, ...], tuple[tuple[Prefix, str], ...]]
IN_NO_POOL = "lies in no pool"
LINKS_REMEMBERED = 256
"""Most links of a host whose subnets are not made anew by each pass."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the rule depends on, without what changes with every pod."""

    pools: tuple[Prefix, ...]
    services: tuple[Prefix, ...]
    local_prefixes: tuple[Prefix, ...]
    accepted: tuple[Prefix, ...]
    own: tuple[Address, ...]
    """This host's addresses but for those of our tunnels."""
    own_tunnels: tuple[Address, ...]
    subnets: tuple[tuple[Prefix, str], ...]
    """The subnets of this host's links, each with the link's name."""
    underlay: frozenset[Address]
    """This node's addresses on the underlay."""
    nodes: frozenset[Address]
    """All nodes' addresses on the underlay."""
    node_tunnels: frozenset[Address]
    datastore: frozenset[Address]
    gateways: frozenset[Address]


class _Asked:
    """A filter that is ready for a version of IP when it is first asked of one."""

    def __init__(self, made: PrefixFilter) -> None:
        self.filter = made
        self._ready: dict[int, Refusal | None] = {}

    def __call__(self, prefix: Prefix) -> str:
        """Why a prefix is refused; empty: it is not."""
        version = prefix.version
        if version not in self._ready:
            self._ready[version] = self.filter.compiled(family_of(prefix))
        refusal = self._ready[version]
        return refusal(pack(prefix)) if refusal is not None else ""


class Rule:
    """The filters for one set of surroundings."""

    def __init__(self, given: Surroundings) -> None:
        self._given = given
        self.from_mesh = self._mesh()
        self.from_peers = self._peers()
        self.claims = self._claims()
        """For blocks, for addresses that other nodes borrowed, and for those of this node's pods."""

    def _claims(self) -> PrefixFilter:
        given = self._given
        services = ((one, f"inside the network of services {one}") for one in given.services)
        ends = (*self._ends, *self._beginnings)
        return PrefixFilter(
            never=(*MARTIANS, *self._own(given.own), *self._nodes_in(self._pools)),
            refused=_meeting(self._pools, (*self._subnets, *services)),
            addresses=tuple(one for one in ends if _is_in(self._pools, one[0])),
            within=self._pools,
            outside=IN_NO_POOL,
        )

    @cached_property
    def in_force(self) -> _Asked:
        """Asked of blocks and pods that were in force before they were refused.

        A pool that went, a network that came, what another node says of itself: they end nothing. What this host lives
        by does.
        """
        given = self._given
        me = tuple(given.underlay)
        lives_by = (*me, *given.datastore, *given.gateways)
        underlay = (one for one in self._subnets if any(address in one[0] for address in lives_by))
        never = (*MARTIANS, *self._own((*given.own, *me)), *underlay)
        return _Asked(PrefixFilter(never=never, addresses=tuple(self._ends)))

    @cached_property
    def hosts(self) -> _Asked:
        """Asked of BGP peers that are reached by a gateway: what is nobody's or our own is no peer's address."""
        given = self._given
        return _Asked(PrefixFilter(never=(*MARTIANS, *self._own((*given.own, *given.own_tunnels)))))

    def is_tunnel(self, address: Address) -> bool:
        """Whether it is the address of a node's tunnel: these lie in pools and blocks, and no pod has one."""
        return address in self._given.node_tunnels or address in self._given.own_tunnels

    def _mesh(self) -> PrefixFilter:
        """What BGP's generated filters of Calico export, and ours: what lies in pools, and the nodes' local prefixes.

        Services are left to `learned_routes`.
        """
        given = self._given
        own = self._own((*given.own, *given.own_tunnels))
        areas = (*self._pools, *given.services, *given.local_prefixes)
        ends = (*self._ends, *self._beginnings)
        return PrefixFilter(
            never=(*MARTIANS, *own, *self._nodes_in(areas)),
            accepted=given.accepted,
            refused=_meeting(areas, self._subnets),
            addresses=tuple(one for one in ends if _is_in(areas, one[0])),
            within=areas,
            outside=f"{IN_NO_POOL} (from the node mesh)",
            next_hops=(
                *NO_NEXT_HOPS,
                *own,
                *((pool, f"in the pods' network {pool}") for pool in self._pools),
            ),
        )

    def _peers(self) -> PrefixFilter:
        """Anything but what is the host's own, or the way to the datastore; what is on a link is reached by that."""
        given = self._given
        own = self._own((*given.own, *given.own_tunnels))
        far = ((address, what) for address, what in self._ends if not self._is_on_link(address))
        return PrefixFilter(
            never=(*MARTIANS, *own),
            accepted=given.accepted,
            refused=tuple(self._subnets),
            addresses=tuple(far),
            next_hops=(*NO_NEXT_HOPS, *own),
            likely=self._pools,
        )

    # -- parts of them ------------------------------------------------------------------------------------------------

    @cached_property
    def _pools(self) -> tuple[Prefix, ...]:
        """Without those that hold nearly everything, 0.0.0.0/0 or 128.0.0.0/1: short, and around what is nobody's."""
        return tuple(
            pool
            for pool in self._given.pools
            if pool.prefixlen >= SHORTEST_PREFIX
            or not any(one.version == pool.version and one.overlaps(pool) for one, _ in MARTIANS)
        )

    @property
    def _subnets(self) -> list[Named]:
        return [
            (subnet, f"inside the connected subnet {subnet} of {device}")
            for subnet, device in self._given.subnets
        ]

    @property
    def _beginnings(self) -> Iterator[tuple[Address, str]]:
        """An address of each connected subnet: what holds it and is no part of the subnet lies around it."""
        for subnet, device in self._given.subnets:
            yield subnet.network_address, f"holds the connected subnet {subnet} of {device}"

    @property
    def _ends(self) -> Iterator[tuple[Address, str]]:
        for address in _sorted(self._given.datastore):
            yield address, f"holds the datastore's address {address}"
        for address in _sorted(self._given.gateways):
            yield address, f"holds the gateway {address}"

    def _nodes_in(self, areas: Collection[Prefix]) -> tuple[Named, ...]:
        """Other nodes' addresses, where these can matter; as single addresses alone.

        A node says by itself which address it has. Did that take what holds it from others, one record would cost
        another node its block.
        """
        nodes = _sorted(one for one in self._given.nodes if _is_in(areas, one))
        return tuple((ip_network(address), f"the address {address} of a node") for address in nodes)

    def _own(self, addresses: Iterable[Address]) -> list[Named]:
        return [(ip_network(address), f"this host's own address {address}") for address in addresses]

    def _is_on_link(self, address: Address) -> bool:
        return any(address in subnet for subnet, _ in self._given.subnets)


def _meeting(areas: Collection[Prefix], named: Iterable[Named]) -> tuple[Named, ...]:
    """Those that can matter where only what lies in some areas is accepted: usually none, so that asking is cheap."""
    return tuple(
        (network, what)
        for network, what in named
        if any(network.version == area.version and network.overlaps(area) for area in areas)
    )


def _is_in(areas: Collection[Prefix], address: Address) -> bool:
    return any(address in area for area in areas)


def _sorted(addresses: Iterable[Address]) -> list[Address]:
    return sorted(addresses, key=lambda one: (one.version, int(one)))


class AdmissiblePrefixes:
    """The facts without what fails the rule; a core with a memory of what is in force."""

    def __init__(self) -> None:
        self._rule = Memo[Rule](by_identity=False)
        self._claims = Memo[_Asked](by_identity=False)
        self._nodes = Memo[tuple[frozenset[Address], frozenset[Address]]](by_identity=True)
        self._blocks = Memo[_Admitted](by_identity=True)
        self._borrowed = Memo[_Admitted](by_identity=True)
        self._networks = Memo[_Networks](by_identity=True)
        self._pods = Memo[tuple[tuple[Endpoint, ...], _Refused]](by_identity=True)
        self._peers = Memo[_Refused](by_identity=True)
        self._refused = Memo[_Refused](by_identity=True)
        self._blocks_in_force: Collection[Prefix] = frozenset()
        self._is_refused_in_force = False
        """Whether a block is in force though it is refused, so that more than the claims' filter counts."""
        self._pods_in_force: tuple[Endpoint, ...] = ()
        self._interfaces_in_force = Memo[frozenset[tuple[Address, str]]](by_identity=True)
        self._known: dict[int, Endpoint] = {}
        """By identity: pods of which nothing is refused. They are held, so nothing else has their identity."""
        self._known_by: Rule | None = None

    def admit(self, facts: Facts) -> Facts:
        """The facts of which everything may be believed, with the filters for BGP and what is left out."""
        given = self._surroundings(facts)
        rule = self._rule.get(lambda: Rule(given), given)
        asked = self._claims.get(lambda: _Asked(rule.claims), rule.claims)
        blocks, wrong = self._blocks.get(
            lambda: self._admit_blocks(facts, rule, asked),
            facts.block_owners,
            asked,
            rule if self._is_refused_in_force else None,
        )
        borrowed, wrong_borrowed = self._borrowed.get(
            lambda: _admit_claims(facts.borrowed, asked), facts.borrowed, asked
        )
        pods, wrong_pods = self._pods.get(lambda: self._admit_pods(facts, rule, asked), facts.endpoints, rule)
        wrong_peers = self._peers.get(
            lambda: _refused_peers(facts.peer_gateways, rule), facts.peer_gateways, rule
        )
        peers = {one.prefix for one in wrong_peers}
        refused = self._refused.get(
            lambda: (*wrong_pods, *wrong, *wrong_borrowed, *wrong_peers),
            wrong_pods,
            wrong,
            wrong_borrowed,
            wrong_peers,
        )
        return replace(
            facts,
            block_owners=blocks,
            borrowed=borrowed,
            endpoints=pods,
            peer_gateways=facts.peer_gateways
            if not peers
            else {peer: via for peer, via in facts.peer_gateways.items() if ip_network(peer) not in peers},
            from_mesh=rule.from_mesh,
            from_peers=rule.from_peers,
            refused=refused,
        )

    def _surroundings(self, facts: Facts) -> Surroundings:
        host = host_links(facts.links)
        own, tunnels, subnets = self._networks.get(lambda: host_networks(host), host)
        nodes, node_tunnels = self._nodes.get(lambda: _addresses(facts.nodes.values()), facts.nodes)
        me, _ = _addresses(() if facts.me is None else (facts.me,))
        gateways = {*facts.peer_gateways.values(), *facts.node_gateways.values()}
        return Surroundings(
            pools=tuple(pool.cidr for pool in facts.pools),
            services=facts.services,
            local_prefixes=facts.settings.local_prefixes,
            accepted=facts.settings.accepted_prefixes,
            own=own,
            own_tunnels=tunnels,
            subnets=subnets,
            underlay=me,
            nodes=nodes,
            node_tunnels=node_tunnels,
            datastore=facts.datastore,
            gateways=frozenset(gateways),
        )

    def _admit_blocks(self, facts: Facts, rule: Rule, asked: _Asked) -> _Admitted:
        before, me = self._blocks_in_force, facts.node

        def stands(prefix: Prefix, owner: NodeName) -> bool:
            return owner == me and prefix in before and not rule.in_force(prefix)

        found = _admit_claims(facts.block_owners, asked, stands)
        self._is_refused_in_force = any(one.stands for one in found[1])
        if facts.links:  # before these are known nothing is of what is the host's own
            self._blocks_in_force = frozenset(block for block, owner in found[0].items() if owner == me)
        return found

    def _admit_pods(self, facts: Facts, rule: Rule, asked: _Asked) -> tuple[tuple[Endpoint, ...], _Refused]:
        if self._known_by is not rule:
            self._known, self._known_by = {}, rule
        pods, known = facts.endpoints, self._known
        now = dict(
            zip(map(id, pods), pods, strict=True)
        )  # hundreds, of which one came or went: walked by C alone
        for key in known.keys() - now.keys():
            del known[key]
        unknown = now.keys() - known.keys()
        refused: list[RefusedClaim] = []
        others: dict[int, Endpoint | None] = {}
        """What is left of those of which something is refused."""
        for key in [key for key in now if key in unknown] if unknown else ():
            found: list[RefusedClaim] = []
            admitted = self._admit_pod(facts, rule, asked, now[key], found)
            if not found and admitted is now[key]:
                known[key] = now[key]
            else:
                others[key] = admitted
            refused += found
        if others:
            left = (others.get(key, pod) for key, pod in now.items())
            pods = tuple(pod for pod in left if pod is not None)
        if facts.links:
            self._pods_in_force = pods
        return pods, tuple(refused)

    def _admit_pod(
        self, facts: Facts, rule: Rule, asked: _Asked, endpoint: Endpoint, refused: list[RefusedClaim]
    ) -> Endpoint | None:
        interface = endpoint.interface
        if not is_workload_device(interface):
            why = f"its interface {interface!r} is not named {WORKLOAD_PREFIX}*"
            refused.append(RefusedClaim(endpoint.key or interface, None, why))
            return None
        good: list[Address] = []
        for address in endpoint.addresses:
            prefix = ip_network(address)
            why = "is a node's tunnel address" if rule.is_tunnel(address) else asked(prefix)
            stands = bool(why) and self._stands(facts, rule, address, interface)
            if why:
                refused.append(RefusedClaim(endpoint.key or interface, prefix, why, stands))
            if not why or stands:
                good.append(address)
        return endpoint if len(good) == len(endpoint.addresses) else replace(endpoint, addresses=tuple(good))

    def _stands(self, facts: Facts, rule: Rule, address: Address, interface: str) -> bool:
        """Whether a pod's route is in force, in this life of the agent or since an earlier one, and may stay."""
        prefix = ip_network(address)
        is_earlier = facts.earlier_pods.get(RouteKey(prefix)) == interface
        pods = self._pods_in_force
        found = self._interfaces_in_force.get(
            lambda: frozenset((address, pod.interface) for pod in pods for address in pod.addresses), pods
        )
        return (is_earlier or (address, interface) in found) and not rule.in_force(prefix)


def host_networks(links: Mapping[str, Link]) -> _Networks:
    """This host's addresses, those of our tunnels, and its connected subnets with their links, but for pods' links."""
    own: list[Address] = []
    tunnels: list[Address] = []
    subnets: list[tuple[Prefix, str]] = []
    for name, link in host_links(links).items():
        addresses, connected = _of_link(name, link.addresses)
        (tunnels if name in OUR_TUNNELS else own).extend(addresses)
        subnets += connected
    return tuple(own), tuple(tunnels), tuple(subnets)


@lru_cache(maxsize=LINKS_REMEMBERED)
def _of_link(
    name: str, addresses: tuple[tuple[Address, int], ...]
) -> tuple[tuple[Address, ...], tuple[tuple[Prefix, str], ...]]:
    subnets = (
        (ip_network(f"{address}/{length}", strict=False), name)
        for address, length in addresses
        if length < address.max_prefixlen and not (address.is_loopback or address.is_link_local)
    )
    return tuple(address for address, _ in addresses), tuple(subnets)


def _addresses(nodes: Iterable[NodeAddresses]) -> tuple[frozenset[Address], frozenset[Address]]:
    """All nodes' addresses on the underlay, and those of their tunnels."""
    known = list(nodes)
    underlay = {own.ip for node in known for own in (node.underlay, node.underlay6) if own is not None}
    tunnels = {own for node in known for own in (node.ipip, node.vxlan, node.vxlan6) if own is not None}
    return frozenset(underlay), frozenset(tunnels)


def _refused_peers(gateways: Mapping[Address, Address], rule: Rule) -> _Refused:
    return tuple(
        RefusedClaim(f"BGP peer {peer} by the gateway {via}", prefix, why)
        for peer, via in gateways.items()
        if (why := rule.hosts(prefix := ip_network(peer)))
    )


def _nothing_stands(prefix: Prefix, owner: NodeName) -> bool:
    return False


def _admit_claims(
    owners: Mapping[Prefix, NodeName],
    asked: _Asked,
    stands: Callable[[Prefix, NodeName], bool] = _nothing_stands,
) -> _Admitted:
    """The claims that pass, and the others."""
    refused = tuple(
        RefusedClaim(affinity_key(owner, prefix), prefix, why, stands(prefix, owner))
        for prefix, owner in owners.items()
        if (why := asked(prefix))
    )
    wrong = {one.prefix for one in refused if not one.stands}
    if not wrong:
        return owners, refused
    return {prefix: owner for prefix, owner in owners.items() if prefix not in wrong}, refused
