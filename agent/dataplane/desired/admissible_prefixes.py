"""Which prefixes may be programmed, announced or believed: the one rule, for whoever says something of a prefix.

Strategy. The rule is a few filters (RFC 7454 section 6) that follow from the facts: for claims in the datastore, for
pods' addresses, for the node-to-node mesh, for peers that a BGPPeer names. What fails is taken out of the facts, so no
producer of routes, sysctls or originations ever sees it; the speaker gets the two filters that are BGP's.
Promises: pure but for its memory; nobody has what is no unicast address of others (RFC 1122, RFC 4291, RFC 6890) or
this host's own. A pod's route and an own block that were in force stay so when their pool goes or another network
comes to lie over them; only the host's own, the other nodes' and the datastore's addresses end them.
Does not know: BGP's sessions, the kernel.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from ipaddress import ip_network

from agent.dataplane.inputs.facts import Endpoint, Facts, NodeAddresses, RefusedClaim
from agent.dataplane.kernel.calico_names import OUR_TUNNELS, WORKLOAD_PREFIX, is_workload_device
from agent.memo import Memo
from agent.netlink.objects import Address, Link, Prefix, RouteKey
from bgp.policy.prefix_filter import SHORTEST_PREFIX, Named, PrefixFilter, Refusal
from bgp.wire.families import family_of
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
IN_NO_POOL = "lies in no pool"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the rule depends on, without what changes with every pod."""

    pools: tuple[Prefix, ...]
    services: tuple[Prefix, ...]
    accepted: tuple[Prefix, ...]
    own: tuple[Address, ...]
    """This host's addresses but for those of our tunnels."""
    own_tunnels: tuple[Address, ...]
    subnets: tuple[tuple[Prefix, str], ...]
    """The subnets of this host's links, each with the link's name."""
    nodes: frozenset[Address]
    """All nodes' addresses on the underlay."""
    node_tunnels: frozenset[Address]
    datastore: frozenset[Address]
    gateways: frozenset[Address]


class Rule:
    """The filters for one situation; each is ready for both versions of IP when it is first asked."""

    def __init__(self, given: Surroundings) -> None:
        self._given = given
        self.from_mesh = self._mesh()
        self.from_peers = self._peers()
        self._ready: dict[tuple[str, int], Refusal | None] = {}

    def refusal(self, which: str, prefix: Prefix) -> str:
        """Why one of the filters refuses a prefix; empty: it does not."""
        key = which, prefix.version
        if key not in self._ready:
            self._ready[key] = getattr(self, which).compiled(family_of(prefix))
        found = self._ready[key]
        return found(RouteKey(prefix).packed) if found is not None else ""

    @cached_property
    def claims(self) -> PrefixFilter:
        """Blocks, and addresses that other nodes borrowed."""
        given = self._given
        return PrefixFilter(
            never=(*MARTIANS, *self._own(given.own)),
            refused=self._inside_pools(self._subnets),
            addresses=self._in_pools((*self._guarded, *self._beginnings)),
            within=self._pools,
            outside=IN_NO_POOL,
        )

    @cached_property
    def pods(self) -> PrefixFilter:
        """Addresses of this node's pods."""
        return replace(self.claims, never=(*self.claims.never, *self._tunnels))

    @cached_property
    def standing(self) -> PrefixFilter:
        """The same, for what is in force: a pool that went, or a network that came, ends nothing."""
        underlay = [
            (subnet, what)
            for subnet, what in self._subnets
            if any(address in subnet for address, _ in self._guarded)
        ]
        never = (*MARTIANS, *self._own(self._given.own), *underlay)
        return PrefixFilter(never=never, addresses=tuple(self._guarded))

    def _mesh(self) -> PrefixFilter:
        """BGP's generated filters of Calico export what lies in pools; services are left to `learned_routes`."""
        given = self._given
        return PrefixFilter(
            never=(*MARTIANS, *self._own((*given.own, *given.own_tunnels))),
            accepted=given.accepted,
            refused=self._inside_pools(self._subnets),
            addresses=self._in_pools((*self._guarded, *self._beginnings)),
            within=(*self._pools, *given.services),
            outside=f"{IN_NO_POOL} (from the node mesh)",
            next_hops=(
                *self._own((*given.own, *given.own_tunnels)),
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
            next_hops=tuple(own),
        )

    # -- parts of them ------------------------------------------------------------------------------------------------

    @property
    def _pools(self) -> tuple[Prefix, ...]:
        """Without those that are a default route or a part of one: they would hold everything."""
        return tuple(pool for pool in self._given.pools if pool.prefixlen >= SHORTEST_PREFIX)

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

    @cached_property
    def _guarded(self) -> tuple[tuple[Address, str], ...]:
        nodes = ((address, f"holds the node address {address}") for address in _sorted(self._given.nodes))
        return (*nodes, *self._ends)

    @property
    def _tunnels(self) -> list[Named]:
        """The tunnels' addresses lie in pools and blocks, and no pod has one of them."""
        tunnels = {*self._given.own_tunnels, *self._given.node_tunnels}
        return [
            (ip_network(address), f"is a node's tunnel address {address}") for address in _sorted(tunnels)
        ]

    def _own(self, addresses: Iterable[Address]) -> list[Named]:
        return [(ip_network(address), f"this host's own address {address}") for address in addresses]

    def _is_on_link(self, address: Address) -> bool:
        return any(address in subnet for subnet, _ in self._given.subnets)

    def _inside_pools(self, named: Iterable[Named]) -> tuple[Named, ...]:
        """Those that can matter where only what lies in pools is accepted: usually none, so that asking is cheap."""
        return tuple(one for one in named if any(_overlap(one[0], pool) for pool in self._pools))

    def _in_pools(self, named: Iterable[tuple[Address, str]]) -> tuple[tuple[Address, str], ...]:
        return tuple(one for one in named if any(one[0] in pool for pool in self._pools))


def _sorted(addresses: Iterable[Address]) -> list[Address]:
    return sorted(addresses, key=lambda one: (one.version, int(one)))


def _overlap(one: Prefix, other: Prefix) -> bool:
    return one.version == other.version and (one.network_address in other or other.network_address in one)


class AdmissiblePrefixes:
    """The facts without what fails the rule; a core with a memory of what is in force."""

    def __init__(self) -> None:
        self._rule = Memo[Rule](by_identity=False)
        self._nodes = Memo[tuple[frozenset[Address], frozenset[Address]]](by_identity=True)
        self._blocks = Memo[tuple[Mapping[Prefix, NodeName], tuple[RefusedClaim, ...]]](by_identity=True)
        self._borrowed = Memo[tuple[Mapping[Prefix, NodeName], tuple[RefusedClaim, ...]]](by_identity=True)
        self._pods = Memo[tuple[tuple[Endpoint, ...], tuple[RefusedClaim, ...]]](by_identity=True)
        self._refused = Memo[tuple[RefusedClaim, ...]](by_identity=True)
        self._standing_blocks: Collection[Prefix] = frozenset()
        self._standing_pods: Collection[tuple[Address, str]] = frozenset()
        self._known: dict[int, tuple[Endpoint, Endpoint]] = {}
        """By the identity of what the datastore says: pods of which nothing is refused."""
        self._known_by: Rule | None = None

    def admit(self, facts: Facts) -> Facts:
        """The facts of which everything may be believed, with the filters for BGP and what is left out."""
        given = self._surroundings(facts)
        rule = self._rule.get(lambda: Rule(given), given)
        blocks, wrong = self._blocks.get(lambda: self._own_and_others(facts, rule), facts.block_owners, rule)
        borrowed, wrong_borrowed = self._borrowed.get(
            lambda: _claims(facts.borrowed, rule), facts.borrowed, rule
        )
        pods, wrong_pods = self._pods.get(lambda: self._admit_pods(facts, rule), facts.endpoints, rule)
        refused = self._refused.get(
            lambda: (*wrong_pods, *wrong, *wrong_borrowed), wrong_pods, wrong, wrong_borrowed
        )
        return replace(
            facts,
            block_owners=blocks,
            borrowed=borrowed,
            endpoints=pods,
            from_mesh=rule.from_mesh,
            from_peers=rule.from_peers,
            refused=refused,
        )

    def _surroundings(self, facts: Facts) -> Surroundings:
        own, tunnels, subnets = host_networks(facts.links)
        nodes, node_tunnels = self._nodes.get(lambda: _addresses(facts.nodes.values()), facts.nodes)
        gateways = {*facts.peer_gateways.values(), *facts.node_gateways.values()}
        return Surroundings(
            pools=tuple(pool.cidr for pool in facts.pools),
            services=facts.services,
            accepted=facts.settings.accepted_prefixes,
            own=own,
            own_tunnels=tunnels,
            subnets=subnets,
            nodes=nodes,
            node_tunnels=node_tunnels,
            datastore=facts.datastore,
            gateways=frozenset(gateways),
        )

    def _own_and_others(
        self, facts: Facts, rule: Rule
    ) -> tuple[Mapping[Prefix, NodeName], tuple[RefusedClaim, ...]]:
        found = _claims(facts.block_owners, rule, facts.node, self._standing_blocks)
        if facts.links:  # before these are known nothing of the host's own is
            self._standing_blocks = frozenset(
                block for block, owner in found[0].items() if owner == facts.node
            )
        return found

    def _admit_pods(self, facts: Facts, rule: Rule) -> tuple[tuple[Endpoint, ...], tuple[RefusedClaim, ...]]:
        known = self._known if self._known_by is rule else {}
        self._known, self._known_by = {}, rule
        refused: list[RefusedClaim] = []
        pods: list[Endpoint] = []
        for endpoint in facts.endpoints:
            if (made := known.get(id(endpoint))) is None:
                before = len(refused)
                admitted = self._admit_pod(facts, rule, endpoint, refused)
                made = (endpoint, admitted) if admitted is not None else None
                if made is not None and len(refused) == before:
                    self._known[id(endpoint)] = made
            else:
                self._known[id(endpoint)] = made
            if made is not None:
                pods.append(made[1])
        if facts.links:
            self._standing_pods = frozenset(
                (address, pod.interface) for pod in pods for address in pod.addresses
            )
        return tuple(pods), tuple(refused)

    def _admit_pod(
        self, facts: Facts, rule: Rule, endpoint: Endpoint, refused: list[RefusedClaim]
    ) -> Endpoint | None:
        interface = endpoint.interface
        if not is_workload_device(interface):
            why = f"its interface {interface!r} is not named {WORKLOAD_PREFIX}…"
            refused.append(RefusedClaim(endpoint.key or interface, None, why))
            return None
        good: list[Address] = []
        for address in endpoint.addresses:
            prefix = ip_network(address)
            why = rule.refusal("pods", prefix)
            stands = bool(why) and self._stands(facts, rule, address, interface)
            if why:
                refused.append(RefusedClaim(endpoint.key or interface, prefix, why, stands))
            if not why or stands:
                good.append(address)
        return endpoint if len(good) == len(endpoint.addresses) else replace(endpoint, addresses=tuple(good))

    def _stands(self, facts: Facts, rule: Rule, address: Address, interface: str) -> bool:
        """Whether a pod's route is in force, in this life of the agent or since an earlier one, and may stay."""
        prefix = ip_network(address)
        was = (address, interface) in self._standing_pods or facts.earlier_pods.get(
            RouteKey(prefix)
        ) == interface
        return was and not rule.refusal("standing", prefix)


def host_networks(
    links: Mapping[str, Link],
) -> tuple[tuple[Address, ...], tuple[Address, ...], tuple[tuple[Prefix, str], ...]]:
    """This host's addresses, those of our tunnels, and its connected subnets with their links, but for pods' links."""
    own: list[Address] = []
    tunnels: list[Address] = []
    subnets: list[tuple[Prefix, str]] = []
    for name, link in links.items():
        if name.startswith(WORKLOAD_PREFIX):
            continue
        for address, length in link.addresses:
            (tunnels if name in OUR_TUNNELS else own).append(address)
            if length < address.max_prefixlen and not (address.is_loopback or address.is_link_local):
                subnets.append((ip_network(f"{address}/{length}", strict=False), name))
    return tuple(own), tuple(tunnels), tuple(subnets)


def _addresses(nodes: Iterable[NodeAddresses]) -> tuple[frozenset[Address], frozenset[Address]]:
    """All nodes' addresses on the underlay, and those of their tunnels."""
    known = list(nodes)
    underlay = {own.ip for node in known for own in (node.underlay, node.underlay6) if own is not None}
    tunnels = {own for node in known for own in (node.ipip, node.vxlan, node.vxlan6) if own is not None}
    return frozenset(underlay), frozenset(tunnels)


def _claims(
    owners: Mapping[Prefix, NodeName],
    rule: Rule,
    me: NodeName | None = None,
    standing: Container[Prefix] = frozenset(),
) -> tuple[Mapping[Prefix, NodeName], tuple[RefusedClaim, ...]]:
    """The claims that pass, and the others; `standing` are blocks of `me` that are in force."""
    refused: list[RefusedClaim] = []
    wrong: set[Prefix] = set()
    for prefix, owner in owners.items():
        if why := rule.refusal("claims", prefix):
            stands = owner == me and prefix in standing and not rule.refusal("standing", prefix)
            refused.append(RefusedClaim(affinity_key(owner, prefix), prefix, why, stands))
            if not stands:
                wrong.add(prefix)
    if not wrong:
        return owners, tuple(refused)
    return {prefix: owner for prefix, owner in owners.items() if prefix not in wrong}, tuple(refused)
