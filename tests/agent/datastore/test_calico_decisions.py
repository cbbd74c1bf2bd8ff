"""What is decided by a resource as Calico stores it, each optional field missing, null, zero, empty and set.

Missing, null, zero and empty decide the same, and a set field decides what Calico means by it. The documents are made
from whole ones, field by field (see `test_calico_resources`, which holds what is read and written back).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from agent.datastore.state_cache import StateCache
from agent.peering.bfd.bfd_timers import interface_timers
from agent.peering.peer_policies import PolicyInputs, policy
from agent.peering.peers import PeeringInputs, desired_peers, identity
from bgp.peer_config import NextHopMode
from ipam.codec import decode_reservation
from ipam.etcd.store import Versioned
from ipam.keys import RESERVATIONS, resource_key
from ipam.model import AssignmentMode, EncapsulationMode, Use
from tests.scenes.datastore.damages import ME, RESERVATION, RESOURCES, Good, document

MINE = Good(
    "Node",
    resource_key("nodes", ME),
    document("Node", ME, {"bgp": {"ipv4Address": "172.26.0.1/20", "ipv6Address": "fd00:26::1/64"}}),
)
SECRETS = {("a", "b"): "word"}
POINTERS = frozenset(
    {
        *(
            "nodeToNodeMeshEnabled",
            "assignmentMode",
            "maxRestartTime",
            "keepaliveTime",
            "nodeMeshMaxRestartTime",
        ),
        *("numAllowedLocalASNumbers", "ttlSecurity", "localASNumber", "min", "max", "priority", "optional"),
        *("minimumRecvInterval", "minimumSendInterval", "idleSendInterval"),
    }
)
"""Pointers in Go: their zero value says something."""
ZEROS: Mapping[type, Any] = {str: "", int: 0, bool: False, list: [], dict: {}}


def decisions(*changed: Good) -> tuple[object, ...]:
    """What this node does by a cluster of every kind, some of it changed, and what it cannot read."""
    state = StateCache(ME)
    by_key = {good.key: good for good in (MINE, *RESOURCES, *changed)}
    for good in by_key.values():
        state.apply(good.key, Versioned(good.key, good.value, 7))
    inputs = PeeringInputs(ME, state.nodes, state.bgp_configurations, state.bgp_peers, SECRETS)
    rules = PolicyInputs(
        tuple(record.pool for record in state.pools),
        cluster=state.bgp_configuration,
        node=state.own_bgp_configuration,
        filters=state.bgp_filters,
    )
    return (
        [replace(record, revision=0) for record in state.pools],
        identity(inputs),
        desired_peers(inputs),
        policy(rules, tuple(state.bgp_filters)),
        [
            (
                node.metadata.name,
                node.ipv4,
                node.ipv6,
                node.ipip_address,
                node.vxlan_address,
                node.vxlan6_address,
                node.spec.vxlan_tunnel_mac_addr,
            )
            for node in state.nodes.values()
        ],
        [(one.addresses, one.source_prefixes, one.spec.interface_name) for one in state.endpoints],
        [one.node_selector for one in state.bfd_configurations.values()],
        interface_timers(state.bfd_configurations, state.nodes[ME]),
        [trouble.about for trouble in state.unreadable.troubles()],
    )


def fields(value: Any, above: tuple[Any, ...] = ("spec",)) -> Iterator[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in inside:
        if isinstance(name, str) and not isinstance(one, dict):
            yield (*above, name)
        yield from fields(one, (*above, name))


def variants(good: Good, path: tuple[Any, ...]) -> Iterator[tuple[str, Good]]:
    """The resource without the field, with null there, and with what Go takes for nothing."""
    raw = json.loads(good.value)
    above = raw
    for name in path[:-1]:
        above = above[name]
    was = above.pop(path[-1])
    yield "missing", Good(good.kind, good.key, json.dumps(raw).encode())
    values = {"null": None} | ({"zero": ZEROS[type(was)]} if path[-1] not in POINTERS else {})
    for name, value in values.items():
        above[path[-1]] = value
        yield name, Good(good.kind, good.key, json.dumps(raw).encode())


ALWAYS_WRITTEN = frozenset(
    {
        *("cidr", "name", "value", "key", "action", "values", "prefix", "address"),
        *("orchestrator", "node", "endpoint", "interfaceName"),
    }
)
"""What Calico refuses to do without."""
FIELDS = [
    (good, path)
    for good in RESOURCES
    for path in fields(json.loads(good.value)["spec"])
    if path[-1] not in ALWAYS_WRITTEN
]
AS_NUMBERS = {"BGPConfiguration", "Node"}
"""In these kinds an AS number is a pointer in Go, and 0 is no number."""


def test_a_missing_field_and_an_empty_one_decide_the_same() -> None:
    assert len(FIELDS) > 60
    for good, path in FIELDS:
        made = dict(variants(good, path))
        if path[-1] == "asNumber" and good.kind in AS_NUMBERS:
            del made["zero"]
        missing = decisions(made.pop("missing"))
        for name, variant in made.items():
            assert decisions(variant) == missing, (good.kind, path, name)


def test_most_fields_decide_something() -> None:
    whole = decisions()
    silent = {path[-1] for good, path in FIELDS if decisions(next(variants(good, path))[1]) == whole}
    assert silent == {
        *(
            "ipipMode",
            "allowedUses",
            "assignmentMode",
            "disabled",
            "disableBGPExport",
            "blockSize",
        ),  # the defaults
        *(
            "bindMode",
            "nodeToNodeMeshEnabled",
            "logSeverityScreen",
            "nextHopMode",
            "reversePeering",
            "sourceAddress",
        ),
        *(
            "nodeMeshMaxRestartTime",
            "optional",
            "serviceClusterIPs",
            "asNumber",
        ),  # no peer here that they are about
        *("addresses", "type", "orchRefs", "nodeName", "interfaceIPv4Address", "vxlanTunnelMACAddrV6"),
        *("containerID", "pod", "mac", "profiles"),
    }


def changed(kind: str, **spec: Any) -> tuple[object, ...]:
    (good,) = (one for one in RESOURCES if one.kind == kind)
    raw = json.loads(good.value)
    raw["spec"] |= spec
    return decisions(Good(kind, good.key, json.dumps(raw).encode()))


POOL_FIELDS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"cidr": "10.8.0.0/16"}, {"cidr": ip_network("10.8.0.0/16")}),
    ({"blockSize": 28}, {"block_length": 28}),
    ({"vxlanMode": "Always"}, {"vxlan": EncapsulationMode.ALWAYS}),
    (
        {"vxlanMode": "Never", "ipipMode": "CrossSubnet"},
        {"vxlan": EncapsulationMode.NEVER, "ipip": EncapsulationMode.CROSS_SUBNET},
    ),
    ({"natOutgoing": False}, {"nat_outgoing": False}),
    ({"nodeSelector": "has(x)"}, {"node_selector": "has(x)"}),
    ({"allowedUses": ["Workload"]}, {"allowed_uses": frozenset({Use.WORKLOAD})}),
    ({"assignmentMode": "Manual"}, {"assignment_mode": AssignmentMode.MANUAL}),
    ({"disabled": True}, {"disabled": True}),
    ({"disableBGPExport": True}, {"disable_bgp_export": True}),
]


@pytest.mark.parametrize(("spec", "expected"), POOL_FIELDS, ids=[next(iter(spec)) for spec, _ in POOL_FIELDS])
def test_a_pools_field_decides_what_calico_means(spec: dict[str, Any], expected: dict[str, Any]) -> None:
    (before,), (after,) = (found[0] for found in (decisions(), changed("IPPool", **spec)))  # type: ignore[misc]
    assert after == replace(before, pool=replace(before.pool, **expected))


PEER_FIELDS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"peerIP": "10.0.0.9"}, {"port": 179}),
    ({"asNumber": 65009}, {"asn": 65009}),
    ({"asNumber": "1.10"}, {"asn": 65546}),
    ({"localASNumber": 65003}, {"local_as": 65003}),
    ({"localASNumber": None}, {"local_as": None}),
    ({"nextHopMode": "Self"}, {"next_hop_mode": NextHopMode.SELF}),
    ({"nextHopMode": None, "keepOriginalNextHop": True}, {"next_hop_mode": NextHopMode.KEEP}),
    ({"sourceAddress": "None"}, {"local_address": None}),
    ({"maxRestartTime": "2m30s"}, {"restart_seconds": 150}),
    ({"maxRestartTime": None}, {"restart_seconds": None}),
    ({"keepaliveTime": "1.5s"}, {"keepalive_seconds": 1.5}),
    ({"numAllowedLocalASNumbers": 3}, {"allowed_local_as": 3}),
    ({"numAllowedLocalASNumbers": 0}, {"allowed_local_as": 0}),
    ({"ttlSecurity": 4}, {"ttl_security_hops": 4}),
    ({"ttlSecurity": 0}, {"ttl_security_hops": 0}),
]


@pytest.mark.parametrize(("spec", "expected"), PEER_FIELDS, ids=[str(spec) for spec, _ in PEER_FIELDS])
def test_a_peers_field_decides_what_calico_means(spec: dict[str, Any], expected: dict[str, Any]) -> None:
    mine = Good("Node", MINE.key, document("Node", ME, {"bgp": {"ipv4Address": "172.26.0.1/20"}}, None))
    labelled = json.loads(mine.value)
    labelled["metadata"]["labels"] = {"rack": "r1"}
    (good,) = (one for one in RESOURCES if one.kind == "BGPPeer")
    raw = json.loads(good.value)

    def peer(more: dict[str, Any]) -> Any:
        value = json.dumps(raw | {"spec": raw["spec"] | more}).encode()
        node = Good("Node", MINE.key, json.dumps(labelled).encode())
        return decisions(node, Good("BGPPeer", good.key, value))[2].peers[ip_address("10.0.0.9")]  # type: ignore[attr-defined]

    before, after = peer({}), peer(spec)
    assert after.config == replace(before.config, **expected)
    assert (after.gateway, after.filters) == (ip_address("10.0.0.1"), ("f",))


def test_reservations_are_what_calico_masks() -> None:
    raw = json.loads(RESERVATION.value)
    for texts, expected in (
        (["10.9.1.7/24"], ["10.9.1.0/24"]),
        (["FD00:0::1/64", "10.0.0.1"], ["fd00::/64", "10.0.0.1/32"]),
        ([None, ""], []),
        ([], []),
        (None, []),
    ):
        raw["spec"]["reservedCIDRs"] = texts
        stored = Versioned(f"{RESERVATIONS}kept", json.dumps(raw).encode(), 7)
        assert decode_reservation(stored) == tuple(map(ip_network, expected))


def test_a_nodes_addresses_are_read_in_other_spellings() -> None:
    found = changed(
        "Node",
        bgp={"ipv6Address": "FD00:26:0::2/64", "ipv4Address": "172.26.0.2", "ipv4IPIPTunnelAddr": "10.9.0.3"},
        ipv6VXLANTunnelAddr="FD00:10:0::2",
        vxlanTunnelMACAddr="66-01-02-03-04-05",
    )
    assert (
        "node-2",
        ip_interface("172.26.0.2/32"),
        ip_interface("fd00:26::2/64"),
        ip_address("10.9.0.3"),
        ip_address("10.9.0.2"),
        ip_address("fd00:10::2"),
        "66:01:02:03:04:05",
    ) in found[4]  # type: ignore[operator]
    assert found[-1] == []
