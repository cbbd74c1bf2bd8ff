"""What becomes of the datastore and the links together: MTUs, the links to other nodes, the networks of services."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, ip_network

import msgspec
import pytest

from agent.dataplane.desired.desired_tunnels import oversized, pod_mtu
from agent.dataplane.inputs.facts import Endpoint, Facts, FactSettings
from agent.dataplane.inputs.gather import (
    Gatherer,
    bgp_speakers,
    cluster_addresses,
    listen_port,
    service_networks,
)
from agent.dataplane.inputs.next_hops import Resolutions
from agent.dataplane.inputs.underlay import Underlay, underlay_of
from agent.datastore.resources.bgp_types import BGPConfigurationSpec, BGPPeerSpec
from agent.datastore.resources.resource_types import (
    MACHINE_ANNOTATION,
    Metadata,
    Node,
    NodeAddress,
    NodeBGPSpec,
    NodeSpec,
    WorkloadEndpoint,
    WorkloadEndpointSpec,
    encode,
)
from agent.datastore.state_cache import StateCache
from agent.datastore.storage_layout import key_of
from agent.netlink.objects import Route, RouteKey
from ipam.etcd.store import Versioned
from ipam.keys import affinity_key
from ipam.model import NodeName
from ipam.selector import parse
from tests.fakes.kernel import FakeKernel
from tests.scenes.dataplane.route_facts import ALWAYS, facts, link, pool

ME = NodeName("node1")


@pytest.mark.parametrize(
    ("names", "mtu"),
    [((), 1500), (("eth0",), 1500), (("eth1",), 1400), (("eth0", "eth1"), 1400), (("gone",), 1500)],
)
def test_the_narrowest_link_to_a_node_decides(names: tuple[str, ...], mtu: int) -> None:
    given = facts(pool(vxlan=ALWAYS))
    links = {**given.links, "eth1": link(3, "eth1", 1400)}
    given = replace(given, links=links, underlay_links=frozenset(names))
    assert pod_mtu(given) == mtu - 50
    assert pod_mtu(replace(given, pools=(pool(),))) == mtu


def test_an_address_on_the_loopback_says_nothing_of_the_underlay() -> None:
    given = facts(pool())
    links = {
        "lo": link(1, "lo", 65536, "172.26.12.198/32"),
        "eth0": link(2, "eth0", 1500, "10.0.0.1/31"),
        "eth1": link(3, "eth1", 1450, "10.0.0.3/31"),
    }
    assert pod_mtu(replace(given, links=links, underlay_links=frozenset({"eth0", "eth1"}))) == 1450


def test_a_pod_above_what_the_underlay_carries_is_found() -> None:
    given = facts(
        pool(vxlan=ALWAYS), endpoints=tuple(Endpoint(name, ()) for name in ("cali1", "cali2", "cali3"))
    )
    links = {**given.links, "cali1": link(5, "cali1", 1500), "cali2": link(6, "cali2", 1400)}
    assert oversized(replace(given, links=links)) == [("cali1", 1500, 1450)]


def test_the_interfaces_and_gateways_to_other_nodes_follow_from_the_ways() -> None:
    kernel = FakeKernel()
    for name, own in (("eth0", "172.26.0.11/20"), ("eth1", "10.0.0.1/24"), ("tunl0", "192.168.1.1/32")):
        kernel.add_link(name, own)
    router = IPv4Address("10.0.0.254")
    behind = (("10.0.0.0/8", "eth1", router), ("192.168.0.0/16", "tunl0", IPv4Address("10.0.0.9")))
    more = [Route(RouteKey(ip_network(dst)), gateway=via, device=dev, protocol=4) for dst, dev, via in behind]
    resolutions = Resolutions.by_links(kernel.link_table, more)
    me, near, far, through, nowhere = map(
        IPv4Address, ("172.26.0.11", "172.26.0.12", "10.9.9.9", "192.168.7.7", "203.0.113.1")
    )
    assert underlay_of([me], resolutions) == Underlay()
    assert underlay_of([me, near], resolutions) == Underlay(frozenset({"eth0"}))
    everybody = underlay_of([me, near, far, through, nowhere], resolutions)
    unreached = {nowhere: "no route of this host leads there"}
    assert everybody == Underlay(frozenset({"eth0", "eth1"}), {far: router}, unreached)


def test_the_networks_of_services_are_those_of_all_three_lists() -> None:
    configured = {
        "serviceClusterIPs": [{"cidr": "10.96.0.0/12"}],
        "serviceExternalIPs": [{"cidr": "192.0.2.0/24"}],
        "serviceLoadBalancerIPs": [{"cidr": "198.51.100.0/24"}],
    }
    assert list(map(str, service_networks(msgspec.convert(configured, BGPConfigurationSpec)))) == [
        "10.96.0.0/12",
        "192.0.2.0/24",
        "198.51.100.0/24",
    ]


def node(name: str, *listed: str, **bgp: str) -> Node:
    addresses = [NodeAddress(address=text) for text in listed]
    spec = NodeSpec(bgp=NodeBGPSpec(**bgp), addresses=addresses, ipv4_vxlan_tunnel_addr="192.168.31.64")
    return Node(metadata=Metadata(name=name), spec=spec)


NODES = {
    NodeName("node1"): node("node1", "10.0.0.1", "one.example", ipv4_address="172.26.0.11/20"),
    NodeName("node2"): node("node2", "127.0.0.1", ipv4_address="172.26.0.12/20", ipv6_address="fd26::c/64"),
}
VTEP = "192.168.31.64"


def test_every_address_of_every_node_is_a_nodes() -> None:
    found = {"10.0.0.1", "172.26.0.11", "172.26.0.12", "fd26::c", VTEP}
    assert set(map(str, cluster_addresses(NODES))) == found


def test_a_speaker_is_at_each_address_of_a_node_and_each_peer_at_its_port() -> None:
    settings = {
        "default": BGPConfigurationSpec(listen_port=1179),
        "node.node2": BGPConfigurationSpec(listen_port=2179),
    }
    peers = {
        "tor": BGPPeerSpec(peer_ip="172.26.0.1:1790"),
        "other": BGPPeerSpec(peer_ip="fd26::9"),
        "selected": BGPPeerSpec(peer_selector="all()"),
    }
    found = {(str(address), port) for address, port in bgp_speakers(NODES, settings, peers)}
    assert found == {
        *((address, 1179) for address in ("10.0.0.1", "172.26.0.11", VTEP)),
        *((address, 2179) for address in ("172.26.0.12", "fd26::c", VTEP)),
        ("172.26.0.1", 1790),
        ("fd26::9", 179),
    }
    assert listen_port(NodeName("node3"), settings) == 1179
    assert listen_port(NodeName("node3"), {}) == 179


def endpoint(name: str, **more: object) -> WorkloadEndpoint:
    spec = {"node": "node1", "orchestrator": "k8s", "endpoint": "eth0", "interface_name": f"cali-{name}"}
    return WorkloadEndpoint(
        metadata=Metadata(name=f"node1-k8s-{name}-eth0", namespace="default", labels={"role": name}),
        spec=WorkloadEndpointSpec(**spec, pod=name, ip_networks=["10.0.0.1/32"], **more),  # type: ignore[arg-type]
    )


def gathered(*endpoints: WorkloadEndpoint, **settings: str) -> Facts:
    cluster = StateCache(ME)
    for one in endpoints:
        cluster.add_endpoint(one)
    selectors = {name: parse(text) for name, text in settings.items()}
    return Gatherer(cluster).gather(FactSettings(**selectors), {}, {}, {})  # type: ignore[arg-type]


def test_selectors_say_who_may_peer_and_route() -> None:
    speaker, router = endpoint("speaker"), endpoint("router")
    found = gathered(
        speaker, router, peers="projectcalico.org/name == 'speaker'", routers="role == 'router'"
    ).endpoints
    assert [(one.may_peer, one.may_route) for one in found] == [(True, False), (False, True)]
    assert [(one.may_peer, one.may_route) for one in gathered(speaker).endpoints] == [(False, False)]
    everybody = gathered(speaker, peers="projectcalico.org/namespace == 'default'").endpoints
    assert [one.may_peer for one in everybody] == [True]


def test_calicos_prefixes_of_an_endpoint_are_its_own_and_bad_ones_nobodys() -> None:
    texts = ["10.9.0.0/16", "fd09::/64", "10.9.0.1/16", "nonsense", ""]
    (found,) = gathered(endpoint("nat", allow_spoofed_source_prefixes=texts)).endpoints
    assert [str(prefix) for prefix in found.source_prefixes] == ["10.9.0.0/16", "fd09::/64"]


def test_blocks_of_this_very_machine_under_an_older_name_are_its_own() -> None:
    known, other = StateCache(ME), NodeName("node9")

    def put(name: str, address: str, machine: str) -> None:
        annotations = {MACHINE_ANNOTATION: machine}
        spec = NodeSpec(bgp=NodeBGPSpec(ipv4_address=address))
        node = Node(metadata=Metadata(name=name, annotations=annotations), spec=spec)
        known.apply(key_of(node), Versioned(key_of(node), encode(node), 1))

    block = IPv4Network("10.0.0.0/26")
    claim = affinity_key(other, block)
    known.apply(claim, Versioned(claim, b'{"state":"confirmed"}', 1))
    put(ME, "172.26.0.11/20", "m1")
    for address, machine, is_own in (
        ("172.26.0.11/20", "m1", True),
        ("172.26.0.11/20", "m2", False),
        ("172.26.0.11/20", "", False),
        ("172.26.0.12/20", "m1", False),
    ):
        put(other, address, machine)
        found = Gatherer(known).gather(FactSettings(), {}, {}, {})
        assert found.block_owners == {block: ME if is_own else other}
        assert (other in found.nodes) is not is_own


def test_a_block_stays_this_machines_while_its_older_record_is_gone_and_its_claim_not_yet() -> None:
    known, other = StateCache(ME), NodeName("node9")
    block = IPv4Network("10.0.0.0/26")
    claim = affinity_key(other, block)
    known.apply(claim, Versioned(claim, b'{"state":"confirmed"}', 1))
    spec = NodeSpec(bgp=NodeBGPSpec(ipv4_address="172.26.0.11/20"))
    nodes = [
        Node(metadata=Metadata(name=name, annotations={MACHINE_ANNOTATION: "m1"}), spec=spec)
        for name in (ME, other)
    ]
    for node in nodes:
        known.apply(key_of(node), Versioned(key_of(node), encode(node), 1))
    gatherer = Gatherer(known)
    assert gatherer.gather(FactSettings(), {}, {}, {}).block_owners == {block: ME}
    known.apply(key_of(nodes[1]), None)
    assert gatherer.gather(FactSettings(), {}, {}, {}).block_owners == {block: ME}
    stranger = Node(metadata=Metadata(name=other), spec=spec)
    known.apply(key_of(stranger), Versioned(key_of(stranger), encode(stranger), 2))
    assert gatherer.gather(FactSettings(), {}, {}, {}).block_owners == {block: other}


def test_without_a_record_of_its_own_a_machine_has_no_path_to_a_node_with_its_address() -> None:
    known, other = StateCache(ME), NodeName("node9")
    node = Node(
        metadata=Metadata(name=other), spec=NodeSpec(bgp=NodeBGPSpec(ipv4_address="172.26.12.198/20"))
    )
    known.apply(key_of(node), Versioned(key_of(node), encode(node), 1))
    for address, expected in (("172.26.12.198/20", set()), ("172.26.12.199/20", {other})):
        links = {"eth0": link(2, "eth0", 1500, address)}
        assert Gatherer(known).gather(FactSettings(), links, {}, {}).nodes.keys() == expected
