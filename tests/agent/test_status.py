"""What `tortie node status` says is wrong between the datastore and this node's interfaces."""

from __future__ import annotations

from ipaddress import IPv6Address

import msgspec

from agent.dataplane.inputs.facts import FactSettings
from agent.dataplane.inputs.gather import Gatherer
from agent.datastore.resources.resource_types import (
    Metadata,
    Node,
    NodeBGPSpec,
    NodeSpec,
    WorkloadEndpoint,
    WorkloadEndpointSpec,
    encode,
)
from agent.datastore.state_cache import StateCache
from agent.datastore.storage_layout import key_of
from agent.netlink.objects import Link
from agent.status import duplicate_troubles, fact_troubles
from ipam.etcd.store import Versioned
from ipam.model import NodeName
from tests.scenes.dataplane.route_facts import link

ME = NodeName("node1")


def cluster(*resources: Node | WorkloadEndpoint) -> StateCache:
    found = StateCache(ME)
    for one in resources:
        key = key_of(one)
        found.apply(key, Versioned(key, encode(one), 1))
    return found


NODE = Node(metadata=Metadata(name=ME), spec=NodeSpec(bgp=NodeBGPSpec(ipv4_address="172.26.0.11/20")))
POD = WorkloadEndpoint(
    metadata=Metadata(name="node1-cni-p1-eth0", namespace="default"),
    spec=WorkloadEndpointSpec(
        node=ME,
        orchestrator="k8s",
        pod="p1",
        endpoint="eth0",
        interface_name="cali1",
        ip_networks=["10.0.0.1/32"],
    ),
)


def sentences(known: StateCache, links: dict[str, Link]) -> list[str]:
    return [str(one) for one in fact_troubles(known, Gatherer(known).gather(FactSettings(), links, {}, {}))]


def test_a_prefix_that_a_pod_may_not_send_from_though_somebody_wrote_so_is_told() -> None:
    links = {"eth0": link(2, "eth0", 1500, "172.26.0.11/20"), "cali1": link(3, "cali1", 1500)}
    good = [f"10.{number}.0.0/16" for number in range(256)]
    said = "pod p1 (cali1): allowSpoofedSourcePrefixes: "
    end = "; it cannot send from there; write at most 256 prefixes"
    for texts, expected in (
        (good, []),
        (["10.0.0.1/33", *good[:10]], [f"{said}'10.0.0.1/33' cannot be used{end}"]),
        ([*good, "fd00::/8", "x"], [f"{said}'fd00::/8' and 1 more cannot be used{end}"]),
    ):
        spec = msgspec.structs.replace(POD.spec, allow_spoofed_source_prefixes=texts)
        assert sentences(cluster(NODE, msgspec.structs.replace(POD, spec=spec)), links) == expected


def test_what_is_wrong_is_told_in_sentences() -> None:
    known = cluster(NODE, POD)
    links = {"eth0": link(2, "eth0", 1400, "172.26.0.11/20"), "cali1": link(3, "cali1", 1500)}
    assert sentences(known, links) == [
        "pod p1 (cali1): its MTU is 1500, the way to other nodes carries 1400; recreate it",
    ]
    links = {"eth0": link(2, "eth0", 1500, "172.26.0.99/20"), "cali1": link(3, "cali1", 1500)}
    assert sentences(known, links) == [
        "no interface bears the node's address 172.26.0.11; nothing is removed until one does",
    ]


def test_an_address_of_the_nodes_that_another_machine_on_the_link_has_is_told() -> None:
    spec = NodeSpec(bgp=NodeBGPSpec(ipv4_address="172.26.0.11/20", ipv6_address="fd26::b/64"))
    known = cluster(msgspec.structs.replace(NODE, spec=spec))
    duplicates = {IPv6Address("fd26::b"): "eth0", IPv6Address("fd26::99"): "eth0"}
    (only,) = map(str, duplicate_troubles(known, duplicates))
    assert only.startswith("eth0: another machine on its link has fd26::b too")
    assert list(duplicate_troubles(known, {IPv6Address("fd26::99"): "eth0"})) == []
    assert list(duplicate_troubles(cluster(NODE), duplicates)) == []
