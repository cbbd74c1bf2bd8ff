"""What `tortie node status` says is wrong between the datastore and this node's interfaces."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import msgspec

from agent.dataplane.inputs.facts import FactSettings
from agent.dataplane.inputs.gather import Gatherer
from agent.datastore.resources.resource_types import (
    IPPool,
    IPPoolSpec,
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
from agent.netlink.objects import AddressFlag, Link
from agent.status import fact_troubles
from ipam.etcd.store import Versioned
from ipam.model import NodeName
from tests.scenes.dataplane.route_facts import link

ME = NodeName("node1")


def cluster(*resources: Node | WorkloadEndpoint | IPPool) -> StateCache:
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


SIX_POOL = IPPool(metadata=Metadata(name="six"), spec=IPPoolSpec(cidr="fd10::/48", vxlan_mode="Always"))
DUAL = msgspec.structs.replace(
    NODE, spec=NodeSpec(bgp=NodeBGPSpec(ipv4_address="172.26.0.11/20", ipv6_address="fd26::b/64"))
)


def dual(mtu: int) -> Link:
    return replace(
        link(2, "eth0", mtu), addresses=((ip_address("172.26.0.11"), 20), (ip_address("fd26::b"), 64))
    )


def test_a_way_that_is_too_narrow_for_ipv6_is_told_once_and_not_of_each_pod() -> None:
    pod = msgspec.structs.replace(
        POD, spec=msgspec.structs.replace(POD.spec, ip_networks=["10.0.0.1/32", "fd10::1/128"])
    )
    known = cluster(DUAL, SIX_POOL, pod)
    for mtu, pods, expected in (
        (1350, 1280, []),
        (
            1300,
            1280,
            [
                "eth0: the way to other nodes carries packets of 1230 octets, and IPv6 needs 1280 (RFC 8200); larger "
                "IPv6 packets of pods do not get there; IPv4 goes on; an MTU of 1350 on eth0, and on the way"
            ],
        ),
        (
            1500,
            1250,
            ["pod p1 (cali1): its MTU is 1250, and IPv6 needs 1280 (RFC 8200); it has no IPv6; recreate it"],
        ),
    ):
        links = {
            "eth0": dual(mtu),
            "cali1": link(3, "cali1", pods),
        }
        assert sentences(known, links) == expected


def test_an_interface_that_is_down_and_an_address_that_is_another_machines_are_told() -> None:
    eth0 = dual(1500)
    assert sentences(cluster(DUAL), {"eth0": replace(eth0, up=False)}) == [
        "eth0: it bears the node's address 172.26.0.11 and is down; other nodes do not reach this one; "
        "ip link set eth0 up"
    ]
    taken = replace(eth0, flagged=((ip_address("fd26::b"), AddressFlag.DUPLICATE),))
    assert sentences(cluster(DUAL), {"eth0": taken}) == [
        "the node's address fd26::b: another machine on the link of eth0 has it too (duplicate address detection, RFC "
        "4862); this machine does not use it; give that machine another one, then take the address away here and put "
        "it back"
    ]


def test_a_node_of_ipv6_alone_that_has_lost_its_address_says_so() -> None:
    six = msgspec.structs.replace(NODE, spec=NodeSpec(bgp=NodeBGPSpec(ipv6_address="fd26::b/64")))
    assert (
        sentences(
            cluster(six), {"eth0": replace(link(2, "eth0", 1500), addresses=((ip_address("fd26::b"), 64),))}
        )
        == []
    )
    assert sentences(
        cluster(six), {"eth0": replace(link(2, "eth0", 1500), addresses=((ip_address("fd26::c"), 64),))}
    ) == ["no interface bears the node's address fd26::b; nothing is removed until one does"]
