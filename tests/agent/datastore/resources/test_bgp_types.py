"""BGP resources: what is read, what is refused with which sentence, where it is stored, which node it changes."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from agent.cli.kind_tables import resources_text
from agent.datastore.resources.bgp_parsing import PeerAddress, community, peer_address, seconds
from agent.datastore.resources.documents import InvalidDocument, read
from agent.datastore.resources.resource_types import BGPConfiguration, BGPFilter, BGPPeer, Resource, encode
from agent.datastore.state_cache import StateCache
from agent.datastore.storage_layout import key_of
from ipam.etcd.store import Versioned
from ipam.model import NodeName

PEER = {"peerIP": "10.0.0.9", "asNumber": 65001}


def text(kind: str, name: str, spec: dict[str, Any]) -> str:
    document = {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": spec}
    return json.dumps(document)


def resource(kind: str, name: str, **spec: Any) -> Resource:
    return read(text(kind, name, spec), "f.yaml")[0].resource


def rule(**more: Any) -> dict[str, Any]:
    return {"exportV4": [{"action": "Accept", **more}]}


FAULTS = [
    ("BGPConfiguration", "default", {"asNumber": 0}, "spec.asNumber: expected int >= 1"),
    ("BGPConfiguration", "default", {"listenPort": 70000}, "spec.listenPort: expected int <= 65535"),
    (
        "BGPConfiguration",
        "default",
        {"listenport": 1},
        "spec.listenport: unknown field; did you mean listenPort?",
    ),
    (
        "BGPConfiguration",
        "mine",
        {},
        "metadata.name: 'mine' is neither default nor node.NAME; nobody would read it",
    ),
    ("BGPConfiguration", "default", {"bindMode": "Node"}, "spec.bindMode: 'Node' is none of None, NodeIP"),
    (
        "BGPConfiguration",
        "default",
        {"nodeToNodeMeshEnabled": False, "nodeMeshMaxRestartTime": "90s"},
        "spec.nodeMeshMaxRestartTime: needs nodeToNodeMeshEnabled: true",
    ),
    (
        "BGPConfiguration",
        "default",
        {"communities": [{"name": "a", "value": "1:70000"}]},
        "spec.communities[0].value: '1:70000': each number of this community must be 0 to 65535",
    ),
    (
        "BGPConfiguration",
        "default",
        {"prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["nobody"]}]},
        "spec.prefixAdvertisements[0].communities: 'nobody' is not a community, such as 65000:100 or 65000:100:200",
    ),
    (
        "BGPConfiguration",
        "default",
        {"nodeMeshPassword": {"secretKeyRef": {"name": "../etc", "key": "k"}}},
        "spec.nodeMeshPassword.secretKeyRef.name: '../etc' must be letters, digits, '-', '_' and '.', "
        "beginning and ending with a letter or digit",
    ),
    (
        "BGPConfiguration",
        "default",
        {"serviceClusterIPs": [{"cidr": "10.96.0.0/8"}]},
        "spec.serviceClusterIPs[0].cidr: 10.96.0.0/8 has host bits set",
    ),
    ("BGPPeer", "p", {}, "spec.peerIP: name either peerIP or peerSelector"),
    ("BGPPeer", "p", {"peerIP": "10.0.0.9"}, "spec.asNumber: must be given with peerIP"),
    (
        "BGPPeer",
        "p",
        {**PEER, "node": "a", "nodeSelector": "all()"},
        "spec.nodeSelector: excludes node; set one of them, or none for all nodes",
    ),
    (
        "BGPPeer",
        "p",
        {"peerSelector": "all()", "asNumber": 1},
        "spec.asNumber: excludes peerSelector; the nodes' own AS numbers count",
    ),
    (
        "BGPPeer",
        "p",
        {**PEER, "peerIP": "10.0.0.9:x"},
        "spec.peerIP: '10.0.0.9:x' is not an address, such as 10.0.0.1, 10.0.0.1:1790 or [fd00::1]:1790",
    ),
    ("BGPPeer", "p", {**PEER, "nextHopMode": "self"}, "spec.nextHopMode: 'self' is none of Auto, Self, Keep"),
    ("BGPPeer", "p", {**PEER, "sourceAddress": "x"}, "spec.sourceAddress: 'x' is none of UseNodeIP, None"),
    (
        "BGPPeer",
        "p",
        {**PEER, "keepaliveTime": "10"},
        "spec.keepaliveTime: '10' is not a duration, such as 90s or 2m",
    ),
    (
        "BGPPeer",
        "p",
        {**PEER, "maxRestartTime": "2h"},
        "spec.maxRestartTime: 2h is outside 0 to 4095 seconds",
    ),
    ("BGPPeer", "p", {**PEER, "ttlSecurity": 255}, "spec.ttlSecurity: expected int <= 254"),
    (
        "BGPPeer",
        "p",
        {**PEER, "reachableBy": "fd00::1"},
        "spec.reachableBy: must be of the same family as peerIP",
    ),
    (
        "BGPPeer",
        "p",
        {"localWorkloadSelector": "all()"},
        "spec.localWorkloadSelector: this program does not peer with pods; use peerIP or peerSelector",
    ),
    ("BGPPeer", "p", {"peerip": "10.0.0.9"}, "spec.peerip: unknown field; did you mean peerIP?"),
    (
        "BGPPeer",
        "p",
        {"peerSelector": "rack ==="},
        "spec.peerSelector: unexpected '=' at character 8",
    ),
    ("BGPFilter", "f", rule(action="accept"), "spec.exportV4[0].action: 'accept' is none of Accept, Reject"),
    (
        "BGPFilter",
        "f",
        rule(cidr="10.0.0.0/8"),
        "spec.exportV4[0].matchOperator: goes with cidr; set both or neither",
    ),
    (
        "BGPFilter",
        "f",
        rule(cidr="fd00::/8", matchOperator="In"),
        "spec.exportV4[0].cidr: fd00::/8 is not IPv4",
    ),
    (
        "BGPFilter",
        "f",
        rule(cidr="10.0.0.0/8", matchOperator="In", prefixLength={"min": 33}),
        "spec.exportV4[0].prefixLength: must be 0 to 32 for IPv4",
    ),
    (
        "BGPFilter",
        "f",
        rule(cidr="10.0.0.0/8", matchOperator="In", prefixLength={"min": 24, "max": 16}),
        "spec.exportV4[0].prefixLength: min 24 is greater than max 16, so nothing could match",
    ),
    ("BGPFilter", "f", rule(prefixLength={"min": 1}), "spec.exportV4[0].prefixLength: needs cidr"),
    (
        "BGPFilter",
        "f",
        {"importV4": [{"action": "Reject", "source": "RemotePeers"}]},
        "spec.importV4[0].source: belongs to export rules; what is imported comes from peers anyway",
    ),
    (
        "BGPFilter",
        "f",
        {"exportV4": [{"action": "Reject", "operations": [{"setPriority": {"value": 9}}]}]},
        "spec.exportV4[0].operations: need action Accept",
    ),
    (
        "BGPFilter",
        "f",
        rule(operations=[{}]),
        "spec.exportV4[0].operations[0]: must hold exactly one of addCommunity, prependASPath, setPriority",
    ),
    (
        "BGPFilter",
        "f",
        rule(operations=[{"prependAsPath": {"prefix": [1]}}]),
        "spec.exportV4[0].operations[0].prependAsPath: unknown field; did you mean prependASPath?",
    ),
    (
        "BGPFilter",
        "f",
        rule(interface="a b"),
        "spec.exportV4[0].interface: 'a b' must be 1 to 15 letters, digits, '.', '-', '_' or '*'",
    ),
    ("BGPFilter", "f", rule(peerType="EBGP"), "spec.exportV4[0].peerType: 'EBGP' is none of eBGP, iBGP"),
]


@pytest.mark.parametrize(("kind", "name", "spec", "sentence"), FAULTS, ids=[case[3][:60] for case in FAULTS])
def test_a_wrong_resource_is_one_sentence_with_kind_name_and_field(
    kind: str, name: str, spec: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InvalidDocument) as caught:
        read(text(kind, name, spec), "f.yaml")
    assert caught.value.sentences == [f"f.yaml: line 1: {kind} {name}: {sentence}"]


WHOLE: list[tuple[type[Resource], str, dict[str, Any]]] = [
    (
        BGPConfiguration,
        "default",
        {
            "nodeToNodeMeshEnabled": True,
            "asNumber": 65000,
            "listenPort": 1790,
            "bindMode": "NodeIP",
            "communities": [{"name": "blocks", "value": "65000:1:2"}],
            "prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["blocks", "65000:7"]}],
            "nodeMeshPassword": {"secretKeyRef": {"name": "bgp", "key": "mesh"}},
            "nodeMeshMaxRestartTime": "90s",
            "serviceClusterIPs": [{"cidr": "10.96.0.0/12"}],
        },
    ),
    (
        BGPPeer,
        "tor",
        {
            "nodeSelector": 'rack == "r1"',
            "peerIP": "[fd00::9]:1790",
            "asNumber": 65001,
            "localASNumber": 65002,
            "nextHopMode": "Keep",
            "password": {"secretKeyRef": {"name": "bgp", "key": "tor"}},
            "sourceAddress": "None",
            "maxRestartTime": "2m",
            "keepaliveTime": "3s",
            "numAllowedLocalASNumbers": 1,
            "ttlSecurity": 1,
            "reachableBy": "fd00::1",
            "filters": ["f"],
            "reversePeering": "Manual",
        },
    ),
    (
        BGPFilter,
        "f",
        {
            "exportV4": [
                {
                    "action": "Accept",
                    "cidr": "10.0.0.0/8",
                    "matchOperator": "In",
                    "prefixLength": {"min": 16, "max": 24},
                    "source": "RemotePeers",
                    "interface": "*.calico",
                    "peerType": "eBGP",
                    "communities": {"values": ["65000:1"]},
                    "asPathPrefix": [65000],
                    "priority": 1024,
                    "operations": [
                        {"addCommunity": {"value": "65000:1:2"}},
                        {"prependASPath": {"prefix": [65000, 65000]}},
                        {"setPriority": {"value": 512}},
                    ],
                }
            ],
            "importV6": [{"action": "Reject", "cidr": "fd00::/8", "matchOperator": "NotIn"}],
        },
    ),
]


@pytest.mark.parametrize(("kind", "name", "spec"), WHOLE, ids=[case[0].__name__ for case in WHOLE])
def test_every_field_of_calicos_is_read_and_stored_as_it_was_written(
    kind: type[Resource], name: str, spec: dict[str, Any]
) -> None:
    (found,) = read(text(kind.__name__, name, spec), "f.yaml")
    assert isinstance(found.resource, kind)
    stored = json.loads(encode(found.resource))["spec"]
    assert stored == spec


def test_the_keys_are_calicos() -> None:
    below = "/calico/resources/v3/projectcalico.org"
    assert key_of(resource("BGPPeer", "tor", **PEER)) == f"{below}/bgppeers/tor"
    assert key_of(resource("BGPFilter", "f")) == f"{below}/bgpfilters/f"
    assert key_of(resource("BGPConfiguration", "node.a")) == f"{below}/bgpconfigurations/node.a"


def test_the_facts_hold_settings_peers_and_filters_and_name_what_cannot_be_used() -> None:
    cluster = StateCache(NodeName("a"))
    for number, one in enumerate(
        (
            resource("BGPConfiguration", "default", asNumber=65000),
            resource("BGPConfiguration", "node.a", listenPort=1790),
            resource("BGPConfiguration", "node.b", listenPort=1791),
            resource("BGPPeer", "z", **PEER),
            resource("BGPPeer", "b", **PEER),
            resource("BGPFilter", "f", **rule()),
        ),
        1,
    ):
        cluster.apply(key_of(one), Versioned(key_of(one), encode(one), number))
    key = key_of(resource("BGPPeer", "bad", **PEER))
    bad = text("BGPPeer", "bad", {"peerIP": "banana", "asNumber": 1}).encode()
    cluster.apply(key, Versioned(key, bad, 9))
    assert (
        cluster.bgp_configuration.default_as_number,
        cluster.own_bgp_configuration and cluster.own_bgp_configuration.listen_port,
    ) == (65000, 1790)
    assert list(cluster.bgp_peers) == ["b", "z"]
    assert [len(spec.export_v4 or ()) for spec in cluster.bgp_filters.values()] == [1]
    assert cluster.unreadable.why(key).startswith("spec.peerIP: 'banana' is not an address")


@pytest.mark.parametrize(
    ("one", "row"),
    [
        (resource("BGPPeer", "tor", **PEER), ["tor", "10.0.0.9", "(global)", "65001"]),
        (resource("BGPPeer", "rr", peerSelector="has(rr)", node="a"), ["rr", "has(rr)", "a"]),
        (resource("BGPFilter", "f", **rule()), ["f", "1", "0", "0", "0"]),
    ],
)
def test_a_table_shows_what_calicoctl_shows(one: Resource, row: list[str]) -> None:
    assert resources_text(type(one).__name__, [one], "table").splitlines()[1].split() == row


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("90s", 90.0),
        ("2m0s", 120.0),
        ("1h30m", 5400.0),
        ("500ms", 0.5),
        ("1.5s", 1.5),
        ("0", 0.0),
        (".5s", 0.5),
        ("1.h", 3600.0),
        ("+2m3s", 123.0),
        ("250000µs", 0.25),
    ],
)
def test_durations_are_read_as_go_writes_them(said: str, meant: float) -> None:
    assert seconds(said) == meant


@pytest.mark.parametrize("said", ["", "9", "s", "1d", "-1s", "1s ", ".s", "+", "00", "٣s", "1" * 99 + "s"])
def test_what_is_no_duration_is_refused(said: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        seconds(said)


def test_a_community_is_a_number_and_a_large_one_its_octets() -> None:
    assert community("65000:100") == 65000 << 16 | 100
    assert community("1:2:3") == bytes.fromhex("000000010000000200000003")


@pytest.mark.parametrize("said", ["1", "1:2:3:4", "01:2", "65536:1", "1:2:4294967296", "a:b", "1:", " 1:2"])
def test_what_is_no_community_is_refused(said: str) -> None:
    with pytest.raises(ValueError, match="community"):
        community(said)


@pytest.mark.parametrize(
    ("said", "address", "port"),
    [
        ("10.0.0.1", "10.0.0.1", None),
        ("10.0.0.1:1790", "10.0.0.1", 1790),
        ("fd00::1", "fd00::1", None),
        ("[fd00::1]:1790", "fd00::1", 1790),
        ("[fd00::1]", "fd00::1", None),
        ("fe80::1%eth1", "fe80::1%eth1", None),
        ("[fe80::1%eth1]:179", "fe80::1%eth1", 179),
        ("fe80::1%enp0s31f6.100", "fe80::1%enp0s31f6.100", None),
    ],
)
def test_a_peers_address_may_have_a_port(said: str, address: str, port: int | None) -> None:
    found = peer_address(said)
    assert (str(found.address), found.port) == (address, port)
    assert isinstance(found, PeerAddress)


ZONES = {
    "fe80::1": "fe80::1 is link-local: name its interface, as in fe80::1%eth1",
    "[fe80::1]:179": "is link-local: name its interface",
    "fd00::1%eth1": "only a link-local address has an interface; leave %eth1 out",
    "fe80::1%" + "x" * 16: "is no interface's name",
    "fe80::1%a b": "is no interface's name",
    "fe80::1%a/b": "is not an address",
    "fe80::1%cali123": "leads to this node's pods",
    "fe80::1%tunl0": "through a tunnel",
    "fe80::1%vxlan.calico": "through a tunnel",
    "fe80::1%lo": "no router is a neighbour there",
}


@pytest.mark.parametrize("said", ZONES)
def test_a_link_local_peer_has_an_interface_that_leads_to_a_router_and_no_other_has_one(said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(ZONES[said])):
        peer_address(said)


@pytest.mark.parametrize(
    "said", ["", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:65536", "[fd00::1]x", "10.0.0.0/8"]
)
def test_what_is_no_address_is_refused(said: str) -> None:
    with pytest.raises(ValueError, match="is not an address"):
        peer_address(said)
