"""What becomes of the datastore and the links together: MTUs, the links to other nodes, the networks of services."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import msgspec
import pytest

from agent.dataplane.desired.desired_tunnels import oversized, pod_mtu
from agent.dataplane.inputs.facts import Endpoint
from agent.dataplane.inputs.gather import service_networks
from agent.dataplane.inputs.underlay import MOST_NODES_ASKED, UnderlayRoutes
from agent.dataplane.kernel.protocol import PathToHost
from agent.datastore.resources.bgp_types import BGPConfigurationSpec
from agent.netlink.objects import Address
from ipam.model import NodeName
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
