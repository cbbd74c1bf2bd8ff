"""What is exported to each peer and imported from it: Calico's filters as tables."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import msgspec
import pytest

from agent.datastore.resources.bgp_types import BGPConfigurationSpec, BGPFilterSpec
from agent.peering.originations import BLOCK
from agent.peering.peer_policies import PolicyInputs, PolicyInterface, names_interfaces, policy, troubles
from bgp.policy.origination import OwnBlocks, by_family
from bgp.policy.policy import Candidate, CompiledPolicy, PolicyResult
from bgp.wire import nlri
from bgp.wire.attributes import PathAttributes
from bgp.wire.communities import format_community
from bgp.wire.families import family_of
from ipam.model import Pool

OWN_BLOCKS = {
    family: OwnBlocks(originated)
    for family, originated in by_family(
        dict.fromkeys(map(ip_network, ("192.168.1.0/26", "10.2.0.0/26", "fd00::/122")), BLOCK)
    ).items()
}
CONFIGURED = {
    "communities": [{"name": "blocks", "value": "65000:1"}],
    "prefixAdvertisements": [
        {"cidr": "192.168.0.0/16", "communities": ["blocks", "65000:1:2"]},
        {"cidr": "192.168.1.0/24", "communities": ["65000:9"]},
    ],
}


def inputs(**more: Any) -> PolicyInputs:
    given: dict[str, Any] = {
        "pools": (
            Pool("open", ip_network("192.168.0.0/16"), 26),
            Pool("old", ip_network("10.1.0.0/16"), 26, disabled=True),
            Pool("secret", ip_network("10.2.0.0/16"), 26, disable_bgp_export=True),
            Pool("six", ip_network("fd00::/48"), 122),
        ),
        "local_prefixes": (ip_network("172.17.1.0/24"),),
        **more,
    }
    return PolicyInputs(**given)


def spec(**rules: list[dict[str, Any]]) -> BGPFilterSpec:
    return msgspec.convert(rules, BGPFilterSpec)


def result_of(
    where: PolicyInputs,
    prefix: str,
    *filters: str,
    internal: bool = True,
    learned: bool = False,
    **attributes: Any,
) -> PolicyResult:
    network = ip_network(prefix)
    compiled = CompiledPolicy(policy(where, filters).export_rules, family_of(network), internal=internal)
    packed, blocks = nlri.pack(network), OWN_BLOCKS[family_of(network)]
    return compiled(Candidate(packed, PathAttributes(**attributes), learned, blocks.relation(packed)))


EXPORTS = [
    ("192.168.1.0/26", {}, "own block", True),
    ("192.168.1.7/32", {}, "inside an own block", False),
    ("192.168.1.0/27", {}, "inside an own block", False),
    ("192.168.9.5/32", {}, "inside pool open", True),
    ("192.168.9.0/26", {"learned": True}, "inside pool open", True),
    ("10.1.0.0/26", {}, "inside pool old", True),
    ("10.2.0.0/26", {}, "pool secret has disableBGPExport", False),
    ("10.2.0.9/32", {"learned": True}, "pool secret has disableBGPExport", False),
    ("172.17.1.0/24", {}, "local prefix", True),
    ("172.17.1.0/25", {}, "inside no pool", False),
    ("172.26.0.0/24", {}, "inside no pool", False),
    ("0.0.0.0/0", {"learned": True}, "inside no pool", False),
    ("192.168.0.0/15", {}, "inside no pool", False),
    ("192.168.9.0/26", {"internal": False}, "inside pool open", True),
    ("fd00::/122", {}, "own block", True),
    ("fd00::7/128", {}, "inside an own block", False),
    ("fd00::1:0/122", {"learned": True}, "inside pool six", True),
    ("fd99::/64", {}, "inside no pool", False),
]


@pytest.mark.parametrize(
    ("prefix", "how", "reason", "is_exported"),
    EXPORTS,
    ids=[f"{prefix} {how}".replace("{}", "") for prefix, how, *_ in EXPORTS],
)
def test_what_is_exported_without_filters(
    prefix: str, how: dict[str, Any], reason: str, is_exported: bool
) -> None:
    found = result_of(inputs(), prefix, **how)
    assert (found.reason, found.attributes is not None) == (reason, is_exported)


COMMUNITIES = [
    ("192.168.1.0/26", ["65000:1", "65000:9", "65000:1:2"]),
    ("192.168.9.0/26", ["65000:1", "65000:1:2"]),
    ("172.17.1.0/24", []),
]


@pytest.mark.parametrize(("prefix", "expected"), COMMUNITIES)
def test_advertised_prefixes_bear_their_communities(prefix: str, expected: list[str]) -> None:
    where = inputs(cluster=msgspec.convert(CONFIGURED, BGPConfigurationSpec))
    found = result_of(where, prefix).attributes
    assert found is not None
    assert [format_community(one) for one in (*found.communities, *found.large_communities)] == expected


def test_a_nodes_own_advertisements_go_in_place_of_the_clusters_and_may_use_its_names() -> None:
    own = {"prefixAdvertisements": [{"cidr": "192.168.0.0/16", "communities": ["blocks", "65000:5"]}]}
    where = inputs(
        cluster=msgspec.convert(CONFIGURED, BGPConfigurationSpec),
        node=msgspec.convert(own, BGPConfigurationSpec),
    )
    found = result_of(where, "192.168.1.0/26").attributes
    assert found is not None
    assert found.communities == (65000 << 16 | 1, 65000 << 16 | 5)


INTERFACES = (
    PolicyInterface("cali1", own=frozenset({ip_network("192.168.9.5/32")})),
    PolicyInterface("docker0", (ip_network("172.17.1.0/24"),), frozenset({ip_network("172.17.1.0/24")})),
    PolicyInterface("eth0", (ip_network("172.26.0.0/24"),), is_parent=True),
)
REJECT_ALL = spec(exportV4=[{"action": "Reject"}])
ACCEPT_BACKBONE = spec(
    exportV4=[{"action": "Accept", "cidr": "172.26.0.0/16", "matchOperator": "In", "source": "RemotePeers"}]
)
FILTERED = [
    ("a filter goes before the pools", {"f": REJECT_ALL}, "192.168.1.0/26", {}, "BGPFilter f, rule 1", False),
    (
        "a filter may let through what no pool holds",
        {"f": ACCEPT_BACKBONE},
        "172.26.5.0/24",
        {"learned": True},
        "BGPFilter f, rule 1",
        True,
    ),
    ("but not of our own", {"f": ACCEPT_BACKBONE}, "172.26.5.0/24", {}, "inside no pool", False),
    (
        "a filter goes before disableBGPExport",
        {"f": spec(exportV4=[{"action": "Accept", "cidr": "10.2.0.0/16", "matchOperator": "In"}])},
        "10.2.0.0/26",
        {},
        "BGPFilter f, rule 1",
        True,
    ),
    (
        "the first of two filters decides",
        {"f": ACCEPT_BACKBONE, "g": REJECT_ALL},
        "172.26.5.0/24",
        {"learned": True},
        "BGPFilter f, rule 1",
        True,
    ),
    (
        "where the first does not decide the second does",
        {"f": ACCEPT_BACKBONE, "g": REJECT_ALL},
        "192.168.1.0/26",
        {},
        "BGPFilter g, rule 1",
        False,
    ),
    ("rules of IPv4 are not IPv6's", {"f": REJECT_ALL}, "fd00::/122", {}, "own block", True),
    (
        "rules of IPv6",
        {"f": spec(exportV6=[{"action": "Reject", "cidr": "fd00::/8", "matchOperator": "In"}])},
        "fd00::/122",
        {},
        "BGPFilter f, rule 1",
        False,
    ),
    (
        "import rules are not for export",
        {"f": spec(importV4=[{"action": "Reject"}])},
        "192.168.1.0/26",
        {},
        "own block",
        True,
    ),
    (
        "rules of internal peers",
        {"f": spec(exportV4=[{"action": "Reject", "peerType": "iBGP"}])},
        "192.168.1.0/26",
        {},
        "BGPFilter f, rule 1",
        False,
    ),
    (
        "rules of external peers",
        {"f": spec(exportV4=[{"action": "Reject", "peerType": "eBGP"}])},
        "192.168.1.0/26",
        {},
        "own block",
        True,
    ),
    (
        "an interface of our own",
        {"f": spec(exportV4=[{"action": "Reject", "interface": "docker*"}])},
        "172.17.1.0/24",
        {},
        "BGPFilter f, rule 1",
        False,
    ),
    (
        "a pod's interface",
        {"f": spec(exportV4=[{"action": "Reject", "interface": "cali*"}])},
        "192.168.9.5/32",
        {},
        "BGPFilter f, rule 1",
        False,
    ),
    ("a filter that does not exist is empty", {}, "192.168.1.0/26", {}, "own block", True),
]


@pytest.mark.parametrize(
    ("filters", "prefix", "how", "reason", "is_exported"),
    [case[1:] for case in FILTERED],
    ids=[case[0] for case in FILTERED],
)
def test_filters_decide_first(
    filters: dict[str, BGPFilterSpec], prefix: str, how: dict[str, Any], reason: str, is_exported: bool
) -> None:
    found = result_of(inputs(filters=filters, interfaces=INTERFACES), prefix, "f", "g", **how)
    assert (found.reason, found.attributes is not None) == (reason, is_exported)


IMPORTS: list[tuple[str, dict[str, Any], str, dict[str, Any], bool]] = [
    ("all is believed", {"action": "Accept"}, "8.8.8.0/24", {}, True),
    (
        "an operator and lengths",
        {
            "action": "Reject",
            "cidr": "10.0.0.0/8",
            "matchOperator": "In",
            "prefixLength": {"min": 25, "max": 32},
        },
        "10.0.0.0/26",
        {},
        False,
    ),
    (
        "outside the lengths",
        {"action": "Reject", "cidr": "10.0.0.0/8", "matchOperator": "In", "prefixLength": {"max": 24}},
        "10.0.0.0/26",
        {},
        True,
    ),
    (
        "an AS path",
        {"action": "Reject", "asPathPrefix": [65001]},
        "8.8.8.0/24",
        {"as_path": ((2, (65001, 65002)),)},
        False,
    ),
    (
        "a community",
        {"action": "Reject", "communities": {"values": ["65000:7"]}},
        "8.8.8.0/24",
        {"communities": (65000 << 16 | 7,)},
        False,
    ),
    ("a priority", {"action": "Reject", "priority": 1024}, "8.8.8.0/24", {}, False),
    (
        "an interface",
        {"action": "Reject", "interface": "eth*"},
        "8.8.8.0/24",
        {"next_hop": ip_address("172.26.0.9")},
        False,
    ),
    (
        "an interface beyond a router",
        {"action": "Reject", "interface": "eth0"},
        "8.8.8.0/24",
        {"next_hop": ip_address("10.0.0.9")},
        False,
    ),
    (
        "another interface",
        {"action": "Reject", "interface": "docker0"},
        "8.8.8.0/24",
        {"next_hop": ip_address("172.26.0.9")},
        True,
    ),
    (
        "a dot is a dot",
        {"action": "Reject", "interface": "et.0"},
        "8.8.8.0/24",
        {"next_hop": ip_address("172.26.0.9")},
        True,
    ),
]


@pytest.mark.parametrize(
    ("rule", "prefix", "attributes", "believed"),
    [case[1:] for case in IMPORTS],
    ids=[case[0] for case in IMPORTS],
)
def test_what_is_believed(
    rule: dict[str, Any], prefix: str, attributes: dict[str, Any], believed: bool
) -> None:
    where = inputs(filters={"f": spec(importV4=[rule])}, interfaces=INTERFACES)
    network = ip_network(prefix)
    compiled = CompiledPolicy(policy(where, ["f"]).import_rules, family_of(network), internal=False)
    candidate = Candidate(nlri.pack(network), PathAttributes(**attributes), True)
    assert (compiled(candidate).attributes is not None) is believed


def test_without_filters_everything_is_believed_at_no_cost() -> None:
    assert policy(inputs(), ()).import_rules == ()


def test_operations_are_done_in_their_order() -> None:
    operations = [
        {"addCommunity": {"value": "65000:7"}},
        {"prependASPath": {"prefix": [65000, 65001]}},
        {"setPriority": {"value": 512}},
    ]
    where = inputs(filters={"f": spec(exportV4=[{"action": "Accept", "operations": operations}])})
    assert result_of(where, "192.168.1.0/26", "f").attributes == PathAttributes(
        communities=(65000 << 16 | 7,), as_path=((2, (65000, 65001)),), local_pref=0x7FFFFFFF - 512
    )


def test_names_without_a_meaning_are_reported() -> None:
    configured = {"prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["nobody", "65000:1"]}]}
    where = inputs(node=msgspec.convert(configured, BGPConfigurationSpec), filters={"f": REJECT_ALL})
    assert list(troubles(where, {"tor": ["f", "g"], "": []})) == [
        "BGPPeer tor: BGPFilter g does not exist; it counts as empty",
        "BGPConfiguration: prefixAdvertisements: no community is named 'nobody'",
    ]


def test_interfaces_are_looked_at_only_where_a_rule_names_one() -> None:
    assert not names_interfaces({"f": REJECT_ALL})
    assert names_interfaces(
        {"f": REJECT_ALL, "g": spec(importV6=[{"action": "Reject", "interface": "eth0"}])}
    )


def test_the_nodes_address_on_its_loopback_is_told_to_switches_and_not_to_the_mesh_that_is_reached_through_it() -> (
    None
):
    own = ip_network("10.255.0.1/32")
    where = inputs(own_addresses=(own,))
    assert result_of(where, "10.255.0.1/32").attributes is not None
    assert result_of(where, "10.255.0.2/32").attributes is None
    assert result_of(inputs(), "10.255.0.1/32").attributes is None
    rejecting = spec(exportV4=[{"action": "Reject", "cidr": "10.255.0.0/24", "matchOperator": "In"}])
    assert (
        result_of(inputs(own_addresses=(own,), filters={"f": rejecting}), "10.255.0.1/32", "f").attributes
        is None
    )
    mesh = CompiledPolicy(policy(where, (), is_mesh=True).export_rules, family_of(own), internal=True)
    packed, blocks = nlri.pack(own), OWN_BLOCKS[family_of(own)]
    assert mesh(Candidate(packed, PathAttributes(), False, blocks.relation(packed))).attributes is None


@pytest.mark.parametrize(
    ("is_mesh", "internal", "learned", "is_told"),
    [
        (True, False, False, True),
        (True, False, True, False),
        (True, True, True, True),
        (False, False, True, True),
    ],
    ids=["its own", "of another", "iBGP has a rule of its own", "a switch"],
)
def test_where_each_node_has_an_as_the_mesh_is_told_of_every_block_by_its_owner_alone(
    is_mesh: bool, internal: bool, learned: bool, is_told: bool
) -> None:
    block = ip_network("192.168.7.0/26")
    rules = policy(inputs(), (), is_mesh=is_mesh).export_rules
    packed, blocks = nlri.pack(block), OWN_BLOCKS[family_of(block)]
    found = CompiledPolicy(rules, family_of(block), internal=internal)(
        Candidate(packed, PathAttributes(), learned, blocks.relation(packed))
    )
    assert (found.attributes is not None) is is_told
