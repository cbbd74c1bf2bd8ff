"""Facts to policy rules: what is imported from each peer and what is exported to it, as Calico's templates say.

Promises: pure; the order of rules is that of confd's filters, so the same resources let the same routes through. A
filter that does not exist counts as empty.
Does not know: how rules are carried out, sessions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network

from agent.dataplane.inputs.facts import Facts
from agent.datastore.resources.bgp_parsing import community
from agent.datastore.resources.bgp_types import (
    BGPConfigurationSpec,
    BGPFilterSpec,
    FilterRule,
    OperationSpec,
    PrefixAdvertisement,
    PrefixLength,
)
from bgp.policy.block_claims import BlockClaims, Owner
from bgp.policy.policy import (
    Action,
    AddCommunity,
    InterfaceMatch,
    Operation,
    Operator,
    Own,
    Policy,
    PrefixMatch,
    PrependAs,
    Rule,
    SetPriority,
)
from bgp.policy.prefix_filter import ACCEPT_ALL, PrefixFilter
from bgp.wire.families import Family, Prefix, family_of
from bgp.wire.nlri import pack
from ipam.model import NodeName, Pool


@dataclass(frozen=True, slots=True)
class PolicyInterface:
    """An interface as policy rules that name one need it."""

    name: str
    subnets: tuple[Prefix, ...] = ()
    own: frozenset[Prefix] = frozenset()
    """Prefixes behind it that we originate."""
    is_parent: bool = False
    """It has the node's address: next hops on no subnet of ours are reached by it."""


@dataclass(frozen=True, slots=True)
class PolicyInputs:
    """Everything that the rules of all peers follow from."""

    pools: tuple[Pool, ...] = ()
    local_prefixes: tuple[Prefix, ...] = ()
    """Named in the node's own settings."""
    own_addresses: tuple[Prefix, ...] = ()
    """The node's on its loopback: advertised to all but the node mesh, which is reached through them."""
    cluster: BGPConfigurationSpec = field(default_factory=BGPConfigurationSpec)
    node: BGPConfigurationSpec | None = None
    """The node's own settings."""
    filters: Mapping[str, BGPFilterSpec] = field(default_factory=dict)
    interfaces: tuple[PolicyInterface, ...] = ()
    """Only where `names_interfaces`; they change with every pod."""
    from_mesh: PrefixFilter = ACCEPT_ALL
    from_peers: PrefixFilter = ACCEPT_ALL
    """What is believed of the node-to-node mesh, and of peers that a BGPPeer names."""


def names_interfaces(filters: Mapping[str, BGPFilterSpec]) -> bool:
    """Whether any rule asks for an interface."""
    lists = (
        rules
        for spec in filters.values()
        for rules in (spec.export_v4, spec.import_v4, spec.export_v6, spec.import_v6)
    )
    return any(rule.interface is not None for rules in lists for rule in rules or ())


ADVERTISED_BY_ITS_OWNER = Rule(
    Action.REJECT, "learned, and the mesh has it from its owner", learned=True, internal=False
)
"""Nobody in the mesh passes on what others told (RFC 4271 section 9.2 has it so of one AS); so neither where each node
has an AS of its own: the others would have every block from every node, and believe its owner alone."""


def policy(inputs: PolicyInputs, filters: Sequence[str], *, is_mesh: bool = False) -> Policy:
    """The rules of a peer with these BGPFilters, in their order."""
    specs = [(name, inputs.filters[name]) for name in filters if name in inputs.filters]
    return Policy(
        import_filter=inputs.from_mesh if is_mesh else inputs.from_peers,
        checks_claims=is_mesh,
        import_rules=tuple(filtered(specs, inputs.interfaces, outgoing=False)),
        export_rules=(
            *filtered(specs, inputs.interfaces, outgoing=True),
            *((ADVERTISED_BY_ITS_OWNER,) if is_mesh else ()),
            *exported(inputs, () if is_mesh else inputs.own_addresses),
        ),
    )


def block_claims(facts: Facts) -> dict[Family, BlockClaims]:
    """Whose the blocks are, by nodes' addresses: in the mesh each node announces its own, and single addresses."""
    nodes: dict[NodeName, Owner] = {
        name: (name, frozenset(one.ip for one in (node.underlay, node.underlay6) if one is not None))
        for name, node in facts.nodes.items()
    }
    followed = facts.settings.from_datastore
    found: dict[Family, BlockClaims] = {}
    for family in Family:
        owners, borrowers = (
            {
                pack(prefix): nodes[node]
                for prefix, node in some.items()
                if node in nodes and family_of(prefix) is family
            }
            for some in (facts.block_owners, facts.borrowed)
        )
        found[family] = BlockClaims.of(owners, borrowers if followed else None)
    return found


def exported(inputs: PolicyInputs, addresses: Iterable[Prefix] = ()) -> Iterator[Rule]:
    """The rules of export where no BGPFilter has decided; `addresses` are those of the node that are advertised.

    Calico's rules against routes over tunnels and of its other dataplane are about what BIRD finds in the kernel; here
    nothing is exported that was not originated or learned.
    """
    for pool in inputs.pools:
        if pool.disable_bgp_export:
            yield Rule(Action.REJECT, f"pool {pool.name} has disableBGPExport", prefix=PrefixMatch(pool.cidr))
    yield from _advertised_communities(inputs)
    for address in addresses:
        yield Rule(Action.ACCEPT, "the node's address", prefix=PrefixMatch(address, Operator.EQUAL))
    yield Rule(Action.ACCEPT, "own block", own=Own.IS)
    yield Rule(Action.REJECT, "inside an own block", own=Own.INSIDE)
    for prefix in inputs.local_prefixes:
        yield Rule(Action.ACCEPT, "local prefix", prefix=PrefixMatch(prefix, Operator.EQUAL))
    for pool in inputs.pools:
        if not pool.disable_bgp_export:
            yield Rule(Action.ACCEPT, f"inside pool {pool.name}", prefix=PrefixMatch(pool.cidr))
    yield Rule(Action.REJECT, "inside no pool")


def _advertised_communities(inputs: PolicyInputs) -> Iterator[Rule]:
    names = _names(inputs)
    for advertisement in _advertisements(inputs):
        operations = tuple(_community(names.get(text, text)) for text in advertisement.communities)
        yield Rule(
            Action.NEXT,
            f"communities of {advertisement.cidr}",
            prefix=PrefixMatch(ip_network(advertisement.cidr)),
            operations=tuple(operation for operation in operations if operation is not None),
        )


def _advertisements(inputs: PolicyInputs) -> Sequence[PrefixAdvertisement]:
    """The prefixAdvertisements in force: the node's own list goes in place of the cluster's."""
    own = inputs.node.prefix_advertisements if inputs.node is not None else None
    return own if own is not None else inputs.cluster.prefix_advertisements or ()


def _names(inputs: PolicyInputs) -> dict[str, str]:
    named = [*(inputs.cluster.communities or ()), *((inputs.node.communities if inputs.node else None) or ())]
    return {one.name: one.value for one in named}


def _community(text: str) -> AddCommunity | None:
    """A community by its value; None: a name without a value, which `troubles` reports."""
    try:
        return AddCommunity(community(text))
    except ValueError:
        return None


def filtered(
    specs: Iterable[tuple[str, BGPFilterSpec]], interfaces: Sequence[PolicyInterface], *, outgoing: bool
) -> Iterator[Rule]:
    """The rules of BGPFilters, one filter after the other."""
    for name, spec in specs:
        lists = (spec.export_v4, spec.export_v6) if outgoing else (spec.import_v4, spec.import_v6)
        for family, rules in zip(Family, lists, strict=True):
            for number, rule in enumerate(rules or (), 1):
                yield _rule(rule, family, interfaces, f"BGPFilter {name}, rule {number}")


def _rule(spec: FilterRule, family: Family, interfaces: Sequence[PolicyInterface], name: str) -> Rule:
    return Rule(
        Action(spec.action),
        name,
        family=family,
        prefix=_prefix(spec),
        learned=spec.source is not None,
        interfaces=_interface_match(spec.interface, interfaces) if spec.interface is not None else None,
        internal=None if spec.peer_type is None else spec.peer_type == "iBGP",
        community=community(spec.communities.values[0]) if spec.communities is not None else None,
        as_path_begins=tuple(spec.as_path_prefix or ()),
        priority=spec.priority,
        operations=tuple(map(_operation, spec.operations or ())),
    )


def _interface_match(pattern: str, interfaces: Sequence[PolicyInterface]) -> InterfaceMatch:
    wanted = re.compile(re.escape(pattern).replace(r"\*", ".*"))
    chosen = [one for one in interfaces if wanted.fullmatch(one.name)]
    others = [one for one in interfaces if one not in chosen]
    return InterfaceMatch(
        subnets=tuple(subnet for one in chosen for subnet in one.subnets),
        elsewhere=tuple(subnet for one in others for subnet in one.subnets)
        if any(one.is_parent for one in chosen)
        else None,
        own=frozenset(prefix for one in chosen for prefix in one.own),
    )


def _prefix(spec: FilterRule) -> PrefixMatch | None:
    if spec.cidr is None:
        return None
    length = spec.prefix_length or PrefixLength()
    return PrefixMatch(ip_network(spec.cidr), Operator(spec.match_operator), length.min, length.max)


def _operation(spec: OperationSpec) -> Operation:
    if spec.add_community is not None:
        return AddCommunity(community(spec.add_community.value))
    if spec.prepend_as_path is not None:
        return PrependAs(tuple(spec.prepend_as_path.prefix))
    assert spec.set_priority is not None  # exactly one is set: validation
    return SetPriority(spec.set_priority.value)


def troubles(inputs: PolicyInputs, filters: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """A sentence for each name that does not exist; `filters` maps a BGPPeer to the names of its filters."""
    for peer, names in sorted(filters.items()):
        for name in names:
            if name not in inputs.filters:
                yield f"BGPPeer {peer}: BGPFilter {name} does not exist; it counts as empty"
    for text in sorted(_unnamed(inputs)):
        yield f"BGPConfiguration: prefixAdvertisements: no community is named {text!r}"


def _unnamed(inputs: PolicyInputs) -> set[str]:
    names = _names(inputs)
    used = {text for advertisement in _advertisements(inputs) for text in advertisement.communities}
    return {text for text in used if text not in names and _community(text) is None}
