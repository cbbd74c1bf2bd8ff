"""What becomes of the datastore and the links together: the MTU, the ways to other nodes, and what is wrong between."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address

import msgspec
import pytest

from agent.dataplane.inputs.facts import Endpoint
from agent.dataplane.inputs.gather import FactSettings, Gatherer, service_networks, troubles
from agent.dataplane.inputs.mtu import oversized, pod_mtu
from agent.dataplane.inputs.underlay import MOST_NODES_ASKED, UnderlayRoutes
from agent.dataplane.kernel.protocol import PathToHost
from agent.datastore.resources.bgp_types import BGPConfigurationSpec
from agent.datastore.resources.resource_types import (
    Metadata,
    Node,
    NodeBGPSpec,
    NodeSpec,
    WorkloadEndpoint,
    WorkloadEndpointSpec,
    encode,
    kind_of,
)
from agent.datastore.state_cache import StateCache
from agent.netlink.objects import Address, Link
from ipam.etcd.store import Versioned
from ipam.keys import resource_key
from ipam.model import NodeName
from tests.agent.dataplane.desired.test_desired_routes import ALWAYS, facts, pool
from tests.fakes.kernel import FakeKernel

ME = NodeName("node1")


def link(index: int, name: str, mtu: int, address: str | None = None) -> Link:
    found = ((ip_address(address.split("/")[0]), int(address.split("/")[1])),) if address else ()
    return Link(index, name, None, mtu, True, addresses=found)


@pytest.mark.parametrize(
    ("ways", "mtu"),
    [((), 1500), (("eth0",), 1500), (("eth1",), 1400), (("eth0", "eth1"), 1400), (("gone",), 1500)],
)
def test_the_narrowest_way_to_a_node_decides(ways: tuple[str, ...], mtu: int) -> None:
    given = facts(pool(vxlan=ALWAYS))
    links = {**given.links, "eth1": link(3, "eth1", 1400)}
    given = replace(given, links=links, ways=frozenset(ways))
    assert pod_mtu(given) == mtu - 50
    assert pod_mtu(replace(given, pools=(pool(),))) == mtu


def test_an_address_on_the_loopback_says_nothing_of_the_way() -> None:
    given = facts(pool())
    links = {
        "lo": link(1, "lo", 65536, "172.26.12.198/32"),
        "eth0": link(2, "eth0", 1500, "10.0.0.1/31"),
        "eth1": link(3, "eth1", 1450, "10.0.0.3/31"),
    }
    assert pod_mtu(replace(given, links=links, ways=frozenset({"eth0", "eth1"}))) == 1450


def test_a_pod_above_what_the_way_carries_is_told() -> None:
    given = facts(
        pool(vxlan=ALWAYS), endpoints=tuple(Endpoint(name, ()) for name in ("cali1", "cali2", "cali3"))
    )
    links = {**given.links, "cali1": link(5, "cali1", 1500), "cali2": link(6, "cali2", 1400)}
    assert oversized(replace(given, links=links)) == [("cali1", 1500, 1450)]


def cluster(*resources: Node | WorkloadEndpoint) -> StateCache:
    found = StateCache(ME)
    for one in resources:
        plural = {"Node": "nodes", "WorkloadEndpoint": "workloadendpoints"}[kind_of(one)]
        key = resource_key(plural, one.metadata.name, one.metadata.namespace or "default")
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


def test_what_is_wrong_is_told_in_sentences() -> None:
    known = cluster(NODE, POD)
    links = {"eth0": link(2, "eth0", 1400, "172.26.0.11/20"), "cali1": link(3, "cali1", 1500)}
    assert troubles(known, Gatherer(known).gathered(FactSettings(), links, {}, {})) == (
        "mtu: pod p1 (cali1) has 1500, the way to other nodes carries 1400: recreate it",
    )
    links = {"eth0": link(2, "eth0", 1500, "172.26.0.99/20"), "cali1": link(3, "cali1", 1500)}
    assert troubles(known, Gatherer(known).gathered(FactSettings(), links, {}, {})) == (
        "no interface bears the node's address 172.26.0.11: nothing is removed until one does",
    )


async def test_ways_are_looked_up_of_distant_nodes_only_and_a_change_is_told() -> None:
    kernel = FakeKernel()
    kernel.add_link("eth0", "172.26.0.11/20")
    kernel.add_link("eth1", "10.0.0.0/8")
    told: list[frozenset[str]] = []
    underlay = UnderlayRoutes(kernel, lambda: told.append(underlay.links))
    links = {"eth0": kernel.link_table["eth0"]}
    near, distant = IPv4Address("172.26.0.12"), IPv4Address("10.9.9.9")
    await underlay.update([near], links)
    await underlay.update([near], links)
    await underlay.update([near, distant], links)
    await underlay.update([near, distant, IPv4Address("203.0.113.1")], links)
    assert told == [{"eth0"}, {"eth0", "eth1"}]


async def test_of_thousands_of_distant_nodes_a_bounded_number_is_asked_for() -> None:
    asked: list[Address] = []

    class Counting(FakeKernel):
        async def path_to(self, host: Address):  # type: ignore[no-untyped-def]
            asked.append(host)
            return await super().path_to(host)

    kernel = Counting()
    kernel.add_link("eth1", "10.0.0.0/8")
    underlay = UnderlayRoutes(kernel, lambda: None)
    await underlay.update([IPv4Address("10.0.0.0") + number for number in range(5000)], {})
    assert len(asked) == MOST_NODES_ASKED
    assert underlay.links == {"eth1"}


async def test_the_router_to_a_distant_node_is_found_and_asked_for_again_only_when_anew() -> None:
    asked: list[Address] = []
    router, far, through = IPv4Address("172.26.0.1"), IPv4Address("172.26.16.12"), IPv4Address("10.0.0.9")

    class Routed(FakeKernel):
        async def path_to(self, host: Address) -> PathToHost:
            asked.append(host)
            device = "tunl0" if host == through else "eth1"
            return PathToHost(device, IPv4Address("172.26.0.11"), router)

    told: list[object] = []
    underlay = UnderlayRoutes(Routed(), lambda: told.append(dict(underlay.gateways)))
    await underlay.update([far, through], {})
    await underlay.update([far, through], {}, anew=False)
    assert (told, asked) == ([{far: router}], [through, far])
    await underlay.update([far], {})
    assert asked.count(far) == 2
    await underlay.update([], {}, anew=False)
    assert told == [{far: router}, {}]


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
