"""Facts to what is in the workload filter's sets."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.dataplane.desired.desired_filter import DesiredFilter, WorkloadElements, source, tunnel_element
from agent.dataplane.desired.desired_tunnels import tunnels
from agent.dataplane.inputs.facts import Endpoint, Facts, FactSettings
from agent.dataplane.kernel.dataplane_objects import FilterElement, FilterSet, WorkloadFilter
from tests.scenes.dataplane.desired_states import IPIP, VXLAN
from tests.scenes.dataplane.route_facts import ALWAYS, facts, pool

OWN = Endpoint("calie486eacd845", (IPv4Address("192.168.41.193"), IPv6Address("fd10::1")))


def desired(known: Facts) -> WorkloadFilter:
    found = DesiredFilter().of(known, tunnels(known))
    assert found is not None
    return found


def test_each_address_counts_on_its_own_interface() -> None:
    found = desired(facts(pool(), endpoints=(OWN,)))
    assert found.workloads == {source(OWN.interface, address) for address in OWN.addresses}
    assert {one.of for one in found.workloads} == {FilterSet.SOURCES_4, FilterSet.SOURCES_6}


@pytest.mark.parametrize(
    "name", ["eth0", "", "cali" + "x" * 12, "cali\0", "cali/..", "cali x", "cali\udc80", "cali" + "é" * 6]
)
def test_what_cannot_be_a_workloads_interface_is_not_named(name: str) -> None:
    stranger = Endpoint(name, (IPv4Address("192.168.41.200"),), may_peer=True, may_route=True)
    assert desired(facts(pool(), endpoints=(stranger,))).workloads == frozenset()


def test_what_an_endpoint_may_do_besides_is_an_element_each() -> None:
    prefixes = tuple(map(IPv4Network, ("10.9.0.0/24", "10.9.1.0/24")))
    more = Endpoint(OWN.interface, (), source_prefixes=prefixes, may_peer=True, may_route=True)
    assert desired(facts(pool(), endpoints=(more,))).workloads == {
        FilterElement(FilterSet.SOURCE_PREFIXES_4, (OWN.interface, IPv4Network("10.9.0.0/23"))),
        FilterElement(FilterSet.PEERS, (OWN.interface,)),
        FilterElement(FilterSet.ROUTERS, (OWN.interface,)),
    }


def test_nodes_speakers_ports_and_tunnels_in_use() -> None:
    addresses = frozenset(map(ip_address, ("172.26.12.198", "fd26::1")))
    speakers = frozenset({(IPv4Address("172.26.5.10"), 179), (IPv6Address("fd26::2"), 1790)})
    more = {"cluster_addresses": addresses, "bgp_speakers": speakers, "listen_port": 1179}
    found = facts(pool(vxlan=ALWAYS), endpoints=(), **more)
    assert desired(found).cluster == {
        FilterElement(FilterSet.NODES_4, (IPv4Address("172.26.12.198"),)),
        FilterElement(FilterSet.NODES_6, (IPv6Address("fd26::1"),)),
        FilterElement(FilterSet.SPEAKERS_4, (IPv4Address("172.26.5.10"), 179)),
        FilterElement(FilterSet.SPEAKERS_6, (IPv6Address("fd26::2"), 1790)),
        FilterElement(FilterSet.SPEAKER_PORTS, (179,)),
        FilterElement(FilterSet.SPEAKER_PORTS, (1790,)),
        FilterElement(FilterSet.BGP_PORTS, (1179,)),
        FilterElement(FilterSet.VXLAN_PORTS_4, (4789,)),
    }
    assert {one.of for one in desired(replace(found, pools=(pool(ipip=ALWAYS),))).cluster} >= {
        FilterSet.TUNNEL_PROTOCOLS
    }
    over_ipv6 = replace(VXLAN, local=IPv6Address("fd26::1"))
    assert [tunnel_element(one).of for one in (VXLAN, over_ipv6, IPIP)] == [
        FilterSet.VXLAN_PORTS_4,
        FilterSet.VXLAN_PORTS_6,
        FilterSet.TUNNEL_PROTOCOLS,
    ]


def test_the_same_facts_are_the_same_objects() -> None:
    made, known = DesiredFilter(), facts(pool(vxlan=ALWAYS))
    one, other = made.of(known, tunnels(known)), made.of(known, tunnels(known))
    assert one is not None
    assert other is not None
    assert one.workloads is other.workloads
    assert one.cluster is other.cluster


def test_switched_off_there_is_none() -> None:
    switched_off = facts(pool(), settings=FactSettings(filter_workloads=False))
    assert DesiredFilter().of(switched_off, {}) is None


def test_prefixes_of_one_interface_never_overlap_whoever_wrote_them() -> None:
    wide, narrow, other = map(IPv4Network, ("10.0.0.0/8", "10.1.0.0/16", "10.1.0.0/16"))
    one = Endpoint("cali1", (), source_prefixes=(wide,))
    two = Endpoint("cali1", (IPv4Address("10.2.0.1"),), source_prefixes=(narrow, other))
    three = Endpoint("cali3", (), source_prefixes=(narrow,))
    elements, own = WorkloadElements(), source("cali1", IPv4Address("10.2.0.1"))

    def prefix(name: str, network: IPv4Network) -> FilterElement:
        return FilterElement(FilterSet.SOURCE_PREFIXES_4, (name, network))

    assert elements.of((one, two, three)) == {own, prefix("cali1", wide), prefix("cali3", narrow)}
    assert elements.of((two, three)) == {own, prefix("cali1", narrow), prefix("cali3", narrow)}
    assert elements.of(()) == frozenset()


def some(number: int) -> Endpoint:
    """Of ten interfaces and addresses, so that two may bear the same."""
    return Endpoint(f"cali{number % 10}", (IPv4Address((10 << 24) + number % 10),))


@given(st.lists(st.lists(st.integers(0, 14), max_size=8, unique=True), max_size=8))
@settings(derandomize=True, max_examples=200)
def test_endpoints_that_come_and_go_leave_what_all_of_them_give(history: list[list[int]]) -> None:
    every, elements = [some(number) for number in range(15)], WorkloadElements()
    for present in history:
        endpoints = [every[number] for number in present]
        assert elements.of(endpoints) == {source(one.interface, one.addresses[0]) for one in endpoints}
