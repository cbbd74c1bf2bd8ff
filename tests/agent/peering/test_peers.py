"""Whom a node peers with: one table of situations."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address
from typing import Any

import msgspec
import pytest

from agent.configuration.config import UplinkSettings
from agent.datastore.resources.resource_types import LARGEST_TTL, LARGEST_TTL_ANNOTATION, Metadata, Node
from agent.peering.peers import PeeringInputs, PeerKind, desired_peers, required_passwords
from agent.peering.uplink_peers import UplinkPeer
from bgp.wire.families import Family
from tests.scenes.bgp.peerings import (
    NO_MESH,
    REFLECTOR,
    TOR,
    TWIN,
    A,
    B,
    C,
    addresses,
    inputs,
    node,
    one,
    peer_config,
    with_tor,
)

WHO: list[tuple[str, PeeringInputs, list[str]]] = [
    (
        "the mesh is every other node, once per family",
        inputs(A, B, C),
        ["10.0.0.2", "10.0.0.3", "fd00::2"],
    ),
    (
        "a node of one family has peers of that family alone",
        inputs(A, B, C, me="c"),
        ["10.0.0.1", "10.0.0.2"],
    ),
    ("without an own address there is no peer", inputs(node("a"), B), []),
    ("an unregistered node has no peer", inputs(B), []),
    ("the mesh can be disabled", inputs(A, B, C, configured=NO_MESH), []),
    ("two records of one address are no peers", inputs(A, node("x", "10.0.0.1")), []),
    ("a reflector leaves the mesh", inputs(A, B, REFLECTOR, me="r"), []),
    ("and the mesh leaves the reflector", inputs(A, C, REFLECTOR), ["10.0.0.3"]),
    (
        "every node has a global peer",
        inputs(A, B, peers={"tor": TOR}, configured=NO_MESH),
        ["10.0.0.254"],
    ),
    (
        "a node's peer is that node's alone",
        inputs(A, B, peers={"tor": {**TOR, "node": "b"}}, configured=NO_MESH),
        [],
    ),
    (
        "a node's peer is that node's",
        inputs(A, B, peers={"tor": {**TOR, "node": "a"}}, configured=NO_MESH),
        ["10.0.0.254"],
    ),
    (
        "a selector chooses nodes by their labels",
        inputs(A, B, C, peers={"tor": {**TOR, "nodeSelector": "has(rack2)"}}, configured=NO_MESH, me="c"),
        ["10.0.0.254"],
    ),
    (
        "and leaves out the others",
        inputs(A, B, C, peers={"tor": {**TOR, "nodeSelector": "has(rack2)"}}, configured=NO_MESH),
        [],
    ),
    (
        "a peer selector means nodes, in both families",
        inputs(A, B, C, peers={"r": {"peerSelector": "has(rack1)"}}, configured=NO_MESH),
        ["10.0.0.2", "10.0.0.3", "fd00::2"],  # c, because it peers with a
    ),
    (
        "the selected nodes peer back",
        inputs(A, B, C, peers={"r": {"node": "c", "peerSelector": "has(rack1)"}}, configured=NO_MESH, me="b"),
        ["10.0.0.3"],
    ),
    (
        "but not with reversePeering Manual",
        inputs(
            A,
            C,
            peers={"r": {"node": "c", "peerSelector": "has(rack1)", "reversePeering": "Manual"}},
            configured=NO_MESH,
        ),
        [],
    ),
    (
        "a node named by its address peers back, in that family alone",
        inputs(A, B, peers={"r": {"node": "b", "peerIP": "10.0.0.1", "asNumber": 64512}}, configured=NO_MESH),
        ["10.0.0.2"],
    ),
    (
        "an address with another AS is not the node that has it",
        inputs(A, B, peers={"r": {"node": "b", "peerIP": "10.0.0.1", "asNumber": 1}}, configured=NO_MESH),
        [],
    ),
    (
        "an address with another port is not the node that has it",
        inputs(
            A, B, peers={"r": {"node": "b", "peerIP": "10.0.0.1:99", "asNumber": 64512}}, configured=NO_MESH
        ),
        [],
    ),
    (
        "no node peers with itself",
        inputs(A, peers={"r": {"peerIP": "10.0.0.1", "asNumber": 64512}}, configured=NO_MESH),
        [],
    ),
    (
        "a peer of a family that the node has no address of is left out",
        inputs(C, peers={"v6": {"peerIP": "fd00::99", "asNumber": 1}}, me="c"),
        [],
    ),
    (
        "clients and reflectors: a client peers with the reflectors",
        inputs(A, B, REFLECTOR, TWIN, peers={"rr": {"peerSelector": "has(rr)"}}, configured=NO_MESH),
        ["10.0.0.8", "10.0.0.9"],
    ),
    (
        "clients and reflectors: a reflector peers with all clients and its twin",
        inputs(A, B, REFLECTOR, TWIN, peers={"rr": {"peerSelector": "has(rr)"}}, configured=NO_MESH, me="r"),
        ["10.0.0.1", "10.0.0.2", "10.0.0.8"],
    ),
]


@pytest.mark.parametrize(("given", "expected"), [case[1:] for case in WHO], ids=[case[0] for case in WHO])
def test_whom_a_node_peers_with(given: PeeringInputs, expected: list[str]) -> None:
    found = desired_peers(given)
    assert addresses(found) == expected
    assert found.troubles == ()


RR = {"rr": {"peerSelector": "has(rr)"}}
OTHER_CLUSTER = node("o", "10.0.0.7", labels="rr", route_reflector_cluster_id="2.0.0.2")


@pytest.mark.parametrize(
    ("address", "is_client"),
    [
        ("10.0.0.1", True),
        ("10.0.0.8", False),
        ("10.0.0.7", True),
        ("10.0.0.254", True),
        ("10.0.0.253", False),
    ],
    ids=[
        "a node",
        "a twin",
        "a reflector of another cluster",
        "a router of our AS",
        "a router of another AS",
    ],
)
def test_a_reflectors_clients_are_all_of_its_as_but_its_own_cluster(address: str, is_client: bool) -> None:
    routers = {
        "in": {"peerIP": "10.0.0.254", "asNumber": 64512},
        "out": {"peerIP": "10.0.0.253", "asNumber": 65001},
    }
    given = inputs(A, REFLECTOR, TWIN, OTHER_CLUSTER, peers={**RR, **routers}, configured=NO_MESH, me="r")
    assert peer_config(given, address).route_reflector_client is is_client


def test_a_client_takes_no_peer_for_its_client() -> None:
    given = inputs(A, REFLECTOR, peers=RR, configured=NO_MESH)
    assert not peer_config(given, "10.0.0.9").route_reflector_client


def test_what_is_written_goes_before_its_reverse_and_both_before_the_mesh() -> None:
    given = inputs(
        A,
        B,
        C,
        peers={
            "1-some": {"node": "a", "peerIP": "10.0.0.2", "asNumber": 64512, "keepaliveTime": "1s"},
            "2-all": {"peerIP": "10.0.0.2", "asNumber": 64512, "keepaliveTime": "2s"},
            "3-back": {"node": "c", "peerIP": "10.0.0.1", "asNumber": 64512, "keepaliveTime": "3s"},
        },
    )
    found = desired_peers(given)
    assert one(found, "10.0.0.2").config.keepalive_seconds == 2
    assert one(found, "10.0.0.3").config.keepalive_seconds == 3
    assert [one(found, address).kind for address in ("10.0.0.2", "10.0.0.3", "fd00::2")] == [
        PeerKind.GLOBAL,
        PeerKind.NODE,
        PeerKind.MESH,
    ]
    assert [one(found, address).resource for address in ("10.0.0.2", "10.0.0.3", "fd00::2")] == [
        "2-all",
        "3-back",
        "",
    ]


def test_both_sides_of_every_pair_agree_whether_they_peer_and_which_one_connects() -> None:
    nodes = (A, B, C, REFLECTOR, TWIN, OTHER_CLUSTER)
    peers = {**RR, "racks": {"nodeSelector": "has(rack1)", "peerSelector": "has(rack2)"}}
    views = {
        str(one.ipv4.ip): desired_peers(inputs(*nodes, peers=peers, me=one.metadata.name))
        for one in nodes
        if one.ipv4
    }
    pairs = 0
    for own, view in views.items():
        for address, peer in view.peers.items():
            if address.version == 4:
                back = views[str(address)].peers[ip_address(own)]
                assert back.config.passive is not peer.config.passive
                pairs += 1
    assert pairs == 2 * (3 + 3 * 3 + 3)


def test_filters_and_the_gateway_come_with_the_peer() -> None:
    peer = one(desired_peers(with_tor(filters=["f", "g"], reachableBy="10.0.0.253")))
    assert (peer.filters, peer.gateway) == (("f", "g"), ip_address("10.0.0.253"))


def test_a_change_of_one_peering_changes_one_peer() -> None:
    before = desired_peers(inputs(A, B, C, peers={"tor": TOR}))
    after = desired_peers(inputs(A, B, C, peers={"tor": {**TOR, "keepaliveTime": "1s"}}))
    changed = [str(address) for address in after.peers if before.peers[address] != after.peers[address]]
    assert changed == ["10.0.0.254"]


NEAR = {LARGEST_TTL_ANNOTATION: LARGEST_TTL}
ELSEWHERE = msgspec.structs.replace(node("e", "10.0.1.5"), metadata=Metadata(name="e", annotations=NEAR))


def annotated(one: Node) -> Node:
    return msgspec.structs.replace(one, metadata=msgspec.structs.replace(one.metadata, annotations=NEAR))


@pytest.mark.parametrize(
    ("given", "address", "hops", "why"),
    [
        (inputs(A, annotated(B), mesh_ttl_security=True), "10.0.0.2", 1, ""),
        (inputs(A, annotated(B), mesh_ttl_security=True), "fd00::2", 1, ""),
        (
            inputs(A, B, mesh_ttl_security=True),
            "10.0.0.2",
            0,
            "its agent does not say that it sends TTL 255",
        ),
        (inputs(A, annotated(B)), "10.0.0.2", 0, "bgp.mesh_ttl_security is off"),
        (inputs(A, ELSEWHERE, mesh_ttl_security=True), "10.0.1.5", 0, "it is on another subnet"),
        (
            inputs(A, annotated(B), peers={"b": {"peerSelector": "has(rack1)"}}, mesh_ttl_security=True),
            "10.0.0.2",
            0,
            "",  # written, so it has what is written
        ),
        (
            inputs(
                A,
                annotated(B),
                peers={"b": {"peerSelector": "has(rack1)", "ttlSecurity": 3}},
                mesh_ttl_security=True,
            ),
            "10.0.0.2",
            3,
            "",
        ),
    ],
)
def test_ttl_255_is_demanded_of_nodes_of_the_mesh_that_are_near_and_send_it(
    given: PeeringInputs, address: str, hops: int, why: str
) -> None:
    peer = one(desired_peers(given), address)
    assert (peer.config.ttl_security_hops, peer.no_ttl_security) == (hops, why)


ON_LINK = {"peerIP": "fe80::1%eth1", "asNumber": 65001}


@pytest.mark.parametrize("me", [C, A], ids=["IPv4 alone", "both families"])
def test_a_peer_on_a_link_needs_no_address_of_ours_and_carries_both_families(me: Node) -> None:
    found = desired_peers(inputs(me, me=me.metadata.name, peers={"tor": ON_LINK}, configured=NO_MESH))
    assert found.troubles == ()
    config = one(found, "fe80::1%eth1").config
    assert (config.asn, config.families, config.local_address) == (65001, frozenset(Family), None)


def test_one_address_on_two_links_is_two_peers() -> None:
    peers = {"one": ON_LINK, "two": {**ON_LINK, "peerIP": "[fe80::1%eth2]:1790"}}
    found = desired_peers(inputs(A, peers=peers, configured=NO_MESH))
    assert addresses(found) == ["fe80::1%eth1", "fe80::1%eth2"]
    assert one(found, "fe80::1%eth2").config.port == 1790


ROUTER = IPv6Address("fe80::9%eth1")
UPLINKS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"asn": None, "hold_seconds": 90, "port": 179, "description": "uplink eth1", "password": ""}),
    ({"remote_as": "internal"}, {"asn": 64512}),
    ({"remote_as": 65007}, {"asn": 65007}),
    ({"hold_seconds": 9, "keepalive_seconds": 1}, {"hold_seconds": 9, "keepalive_seconds": 1}),
    ({"ttl_security": True}, {"ttl_security_hops": 1}),
    ({"secret": "bgp/k"}, {"password": "pw"}),
    ({"port": 1790}, {"port": 1790}),
]


@pytest.mark.parametrize(("settings", "expected"), UPLINKS)
def test_a_router_found_on_an_uplink_is_a_peer_as_its_settings_say(
    settings: dict[str, Any], expected: dict[str, Any]
) -> None:
    uplink = UplinkPeer(ROUTER, UplinkSettings(interface="eth*", filters=["f"], **settings))
    found = desired_peers(
        inputs(A, configured=NO_MESH, uplinks=(uplink,), passwords={("bgp", "k"): "pw"})
    ).peers[ROUTER]
    assert (found.kind, found.filters) == (PeerKind.UPLINK, ("f",))
    assert {name: getattr(found.config, name) for name in expected} == expected


def test_without_its_password_an_uplink_has_no_peer_and_the_trouble_says_why() -> None:
    uplink = UplinkPeer(ROUTER, UplinkSettings(interface="eth*", secret="bgp/k"))
    given = inputs(A, configured=NO_MESH, uplinks=(uplink,))
    assert required_passwords(given) == {("bgp", "k")}
    found = desired_peers(given)
    assert (dict(found.peers), found.troubles) == (
        {},
        ("uplink eth1: router fe80::9%eth1: the secret bgp/k does not exist",),
    )


def test_a_bgppeer_goes_before_what_was_found_on_its_link() -> None:
    uplink = UplinkPeer(IPv6Address("fe80::1%eth1"), UplinkSettings(interface="eth*"))
    found = desired_peers(inputs(A, peers={"tor": ON_LINK}, configured=NO_MESH, uplinks=(uplink,)))
    assert one(found, "fe80::1%eth1").resource == "tor"
