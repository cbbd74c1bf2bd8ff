"""What the contract says of the workload filter, and what others see of it."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import pytest

from agent.dataplane.kernel.dataplane_objects import FilterElement, FilterSet, Kind, WorkloadFilter
from agent.dataplane.kernel.linux import NetlinkKernel
from agent.dataplane.kernel.protocol import Changes, ObjectsChanged
from tests.contract.kernels import World, nft
from tests.fixtures.namespace import fresh_namespace

POD, OTHER = IPv4Address("10.1.0.7"), IPv4Address("10.1.0.8")
POD_6, NODE_6 = IPv6Address("fd10:1::7"), IPv6Address("fd26::1")
NODE = IPv4Address("172.26.0.1")
WORKLOADS = frozenset(
    {
        FilterElement(FilterSet.SOURCES_4, ("cali1", POD)),
        FilterElement(FilterSet.SOURCES_4, ("calie486eacd845", OTHER)),
        FilterElement(FilterSet.SOURCES_6, ("cali1", POD_6)),
        FilterElement(FilterSet.SOURCE_PREFIXES_4, ("cali1", IPv4Network("10.9.0.0/16"))),
        FilterElement(FilterSet.SOURCE_PREFIXES_4, ("cali2", IPv4Network("0.0.0.0/0"))),
        FilterElement(FilterSet.SOURCE_PREFIXES_6, ("cali1", IPv6Network("fd09::/32"))),
        FilterElement(FilterSet.PEERS, ("cali2",)),
        FilterElement(FilterSet.ROUTERS, ("calie486eacd845",)),
    }
)
CLUSTER = frozenset(
    {
        FilterElement(FilterSet.NODES_4, (NODE,)),
        FilterElement(FilterSet.NODES_6, (NODE_6,)),
        FilterElement(FilterSet.SPEAKERS_4, (NODE, 179)),
        FilterElement(FilterSet.SPEAKERS_6, (NODE_6, 1790)),
        FilterElement(FilterSet.SPEAKER_PORTS, (179,)),
        FilterElement(FilterSet.BGP_PORTS, (179,)),
        FilterElement(FilterSet.VXLAN_PORTS_4, (4789,)),
        FilterElement(FilterSet.VXLAN_PORTS_6, (4789,)),
        FilterElement(FilterSet.TUNNEL_PROTOCOLS, (4,)),
    }
)
WHOLE = WorkloadFilter(WORKLOADS, CLUSTER)
LESS = WorkloadFilter(frozenset(sorted(WORKLOADS, key=str)[:5]), frozenset())


async def test_what_is_in_the_sets_is_read_back(world: World) -> None:
    assert await world.kernel.workload_filter() is None
    was: WorkloadFilter | None = None
    for wanted in (WHOLE, WHOLE, LESS, WorkloadFilter(), WHOLE):
        await world.kernel.put_workload_filter(wanted, was)
        assert await world.kernel.workload_filter() == wanted
        was = wanted
    for _ in range(2):
        await world.kernel.put_workload_filter(None, was)
        assert await world.kernel.workload_filter() is None


async def test_prefixes_grow_and_shrink_in_one_step(world: World) -> None:
    def prefixes(*texts: str) -> WorkloadFilter:
        found = (FilterElement(FilterSet.SOURCE_PREFIXES_4, ("cali1", IPv4Network(text))) for text in texts)
        return WorkloadFilter(frozenset(found))

    was: WorkloadFilter | None = None
    for texts in (("10.1.0.0/16",), ("10.0.0.0/8",), ("10.1.0.0/16", "10.3.0.0/16"), ("10.0.0.0/13",), ()):
        await world.kernel.put_workload_filter(prefixes(*texts), was)
        was = prefixes(*texts)
        assert await world.kernel.workload_filter() == was


async def test_what_others_did_meanwhile_is_no_obstacle(world: World) -> None:
    await world.kernel.put_workload_filter(LESS, None)
    await world.kernel.put_workload_filter(WorkloadFilter(), LESS)
    # Known as LESS, though it is empty: what is to go is not there.
    await world.kernel.put_workload_filter(WHOLE, WHOLE)
    await world.kernel.put_workload_filter(WorkloadFilter(WORKLOADS), WHOLE)
    assert await world.kernel.workload_filter() == WorkloadFilter(WORKLOADS)


async def test_every_set_holds_five_thousand_elements_in_a_few_messages(world: World) -> None:
    base, base_6 = int(IPv4Address("10.0.0.0")), int(IPv6Address("fd00::"))
    many = frozenset(
        element
        for number in range(5000)
        for element in (
            FilterElement(FilterSet.SOURCES_4, (f"cali{number}", IPv4Address(base + number))),
            FilterElement(FilterSet.SOURCES_6, (f"cali{number}", IPv6Address(base_6 + number))),
        )
    )
    nodes = frozenset(
        FilterElement(FilterSet.NODES_4, (IPv4Address(base + number),)) for number in range(5000)
    )
    await world.kernel.put_workload_filter(WorkloadFilter(many, nodes), None)
    assert await world.kernel.workload_filter() == WorkloadFilter(many, nodes)


@contextmanager
def real() -> Iterator[NetlinkKernel]:
    with fresh_namespace():
        kernel = NetlinkKernel()
        yield kernel
        kernel.close()


ALTERATIONS = {
    "a chain flushed": "flush chain inet tortie prerouting",
    "a rule added first": "insert rule inet tortie forward accept",
    "a rule added last": 'add rule inet tortie input counter accept comment "bgp"',
    "the table asleep": "add table inet tortie { flags dormant; }",
    "the table flushed": "flush table inet tortie",
}


@pytest.mark.parametrize("alteration", ALTERATIONS)
async def test_altered_rules_are_seen_and_put_right_with_all_elements(alteration: str) -> None:
    with real() as kernel:
        await kernel.put_workload_filter(WHOLE, None)
        whole = nft("list table inet tortie")
        nft(ALTERATIONS[alteration])
        found = await kernel.workload_filter()
        assert found == replace(WHOLE, is_intact=False)
        await kernel.put_workload_filter(WHOLE, found)
        assert sorted(nft("list table inet tortie").split()) == sorted(whole.split())
        assert await kernel.workload_filter() == WHOLE


async def next_filter(changes: Changes) -> ObjectsChanged:
    async with asyncio.timeout(5):
        while True:
            event = await anext(changes)
            if isinstance(event, ObjectsChanged) and event.kind is Kind.FILTER:
                return event


async def test_who_flushed_it_is_heard_and_our_own_writes_are_not() -> None:
    with real() as kernel:
        changes = kernel.changes()
        try:
            await kernel.put_workload_filter(WHOLE, None)
            await kernel.put_workload_filter(LESS, WHOLE)
            nft("delete element inet tortie sources4 { cali1 . 10.1.0.7 }")
            assert (await next_filter(changes)).by == "nft"
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await anext(changes)
        finally:
            changes.close()


async def test_other_programs_show_what_it_does_and_what_is_in_it() -> None:
    with real() as kernel:
        await kernel.put_workload_filter(WHOLE, None)
        shown = re.sub(r"\s+", " ", nft("list table inet tortie"))
        for words in (
            "type filter hook prerouting priority raw; policy accept;",
            "type filter hook input priority filter; policy accept;",
            'iifname != "cali*" accept comment "not from a workload"',
            'iifname . ip saddr @sources4 accept comment "its own IPv4 address"',
            'counter packets 0 bytes 0 drop comment "spoofed-source"',
            "ip saddr != @nodes4 counter packets 0 bytes 0 drop",
            '"cali1" . 10.1.0.7',
            '"cali1" . 10.9.0.0/16',
            "172.26.0.1 . 179",
        ):
            assert words in shown, shown
        assert set(await kernel.filter_drops()) == {
            "loopback", "router-advertisement", "spoofed-source", "vxlan-of-no-node", "ipip-of-no-node",
            "bgp", "vxlan", "ipip",
        }  # fmt: skip


IPIP, VXLAN_PORT, QUIET_SECONDS = 4, 4789, 0.1


def loopback_socket(version: int, kind: int, protocol: int, port: int = 0) -> socket.socket:
    made = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, kind, protocol)
    made.bind(("127.0.0.1" if version == 4 else "::1", port))
    made.settimeout(QUIET_SECONDS)
    return made


@pytest.mark.parametrize(("version", "kind", "protocol", "port", "reason"), [
    (4, socket.SOCK_RAW, IPIP, 0, "ipip-of-no-node"),
    (4, socket.SOCK_DGRAM, 0, VXLAN_PORT, "vxlan-of-no-node"),
    (6, socket.SOCK_DGRAM, 0, VXLAN_PORT, "vxlan-of-no-node"),
])  # fmt: skip
async def test_a_tunnels_packets_come_from_nodes_alone_while_there_is_such_a_tunnel(
    version: int, kind: int, protocol: int, port: int, reason: str
) -> None:
    with real() as kernel:
        here = ip_address("127.0.0.1" if version == 4 else "::1")
        nodes = FilterElement(FilterSet.NODES_4 if version == 4 else FilterSet.NODES_6, (here,))
        used = frozenset(one for one in CLUSTER if one.of.startswith(("vxlan", "tunnel")))
        with (
            loopback_socket(version, kind, protocol, port) as heard,
            loopback_socket(version, kind, protocol) as out,
        ):
            was: WorkloadFilter | None = None
            for cluster, passes in (
                (frozenset[FilterElement](), True),
                (used, False),
                (used | {nodes}, True),
            ):
                wanted = WorkloadFilter(frozenset(), cluster)
                await kernel.put_workload_filter(wanted, was)
                was = wanted
                before = (await kernel.filter_drops())[reason]
                out.sendto(b"x" * 20, (str(here), port))
                if passes:
                    assert heard.recv(100).endswith(b"x" * 20)
                else:
                    with pytest.raises(TimeoutError):
                        heard.recv(100)
                assert (await kernel.filter_drops())[reason] - before == (0 if passes else 1)
