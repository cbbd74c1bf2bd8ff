"""Routes follow their next hops' ways on a real kernel: when it tells of a change, in one step, in both versions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from ipaddress import ip_network

import pytest

from agent.dataplane.kernel.linux import NetlinkKernel
from agent.netlink.objects import RouteKey
from tests.fixtures.namespace import fresh_namespace, ip, make_links
from tests.scenes.dataplane.learning_node import LearningNode
from tests.scenes.dataplane.reconcilers import running

FAR, FAR6 = "10.99.0.9", "fd99::9"
FIRST, FIRST6 = "10.88.0.0/24", "fd88::/64"


@pytest.fixture(params=[False, True], ids=["plain routes", "nexthop objects"])
def kernel(request: pytest.FixtureRequest) -> Iterator[NetlinkKernel]:
    with fresh_namespace():
        make_links("eth1", "eth2")
        for name, own, own6 in (
            ("eth1", "172.26.0.11/20", "fd26::b/64"),
            ("eth2", "172.27.0.11/20", "fd27::b/64"),
        ):
            ip(f"addr add {own} dev {name}")
            ip(f"addr add {own6} dev {name} nodad")
        made = NetlinkKernel(nexthop_objects=request.param)
        yield made
        made.close()


@pytest.fixture
async def node(kernel: NetlinkKernel) -> AsyncIterator[LearningNode]:
    made = LearningNode(kernel, "172.26.0.11/20", "fd26::b/64")
    async with running(made):
        yield made


def lines(node: LearningNode, *prefixes: str) -> list[str]:
    found: Mapping[RouteKey, object] = node.reconciler.installed
    return [str(found.get(RouteKey(ip_network(prefix)), "none")) for prefix in prefixes]


async def test_a_next_hop_that_is_on_no_link_is_reached_by_the_route_there_and_follows_it(
    node: LearningNode,
) -> None:
    ip("route add default via 172.26.0.1 proto dhcp metric 100")
    ip("-6 route add default via fe80::1 dev eth1 proto ra metric 100")
    node.learn({FIRST: FAR, FIRST6: FAR6})
    before = [
        f"{FIRST} via 172.26.0.1 dev eth1 proto bird",
        f"{FIRST6} via fe80::1 dev eth1 proto bird metric 1024",
    ]
    await node.until(lambda: lines(node, FIRST, FIRST6) == before)
    ip("route replace default via 172.27.0.2 proto dhcp metric 50")
    ip("-6 route add fd99::/64 via fd27::1")
    after = [
        f"{FIRST} via 172.27.0.2 dev eth2 proto bird",
        f"{FIRST6} via fd27::1 dev eth2 proto bird metric 1024",
    ]
    began = time.monotonic()
    await node.until(lambda: lines(node, FIRST, FIRST6) == after)
    assert time.monotonic() - began < 1
    ip("-6 route del fd99::/64 via fd27::1")
    await node.until(lambda: lines(node, FIRST6) == before[1:])


async def test_several_ways_become_several_next_hops(node: LearningNode) -> None:
    for version, gateways, far in ((4, ("172.26.0.1", "172.27.0.1"), FAR), (6, ("fd26::1", "fd27::1"), FAR6)):
        ip(f"-{version} route add {far} nexthop via {gateways[0]} weight 2 nexthop via {gateways[1]}")
    node.learn({FIRST: FAR, FIRST6: FAR6})
    await node.until(
        lambda: (
            lines(node, FIRST, FIRST6)
            == [
                f"{FIRST} proto bird nexthop via 172.26.0.1 dev eth1 weight 2 nexthop via 172.27.0.1 dev eth2 weight 1",
                f"{FIRST6} proto bird metric 1024 nexthop via fd26::1 dev eth1 weight 2 "
                "nexthop via fd27::1 dev eth2 weight 1",
            ]
        )
    )
    ip("link set eth1 down")
    await node.until(lambda: lines(node, FIRST) == [f"{FIRST} via 172.27.0.1 dev eth2 proto bird"])


async def test_ipv4_prefixes_go_by_gateways_of_ipv6(node: LearningNode) -> None:
    ip("-4 route add 0.0.0.0/0 via inet6 fe80::1 dev eth2")
    node.learn({FIRST: FAR, "10.89.0.0/24": "fd26::77", "10.90.0.0/24": "fe80::5%eth1"})
    await node.until(
        lambda: (
            lines(node, FIRST, "10.89.0.0/24", "10.90.0.0/24")
            == [
                f"{FIRST} via inet6 fe80::1 dev eth2 proto bird",
                "10.89.0.0/24 via inet6 fd26::77 dev eth1 proto bird",
                "10.90.0.0/24 via inet6 fe80::5 dev eth1 proto bird",
            ]
        )
    )


async def test_hosts_of_one_address_have_routes_by_their_gateway(kernel: NetlinkKernel) -> None:
    """C07: GCP, Hetzner: 172.26.0.11/32, the gateway by a link route."""
    ip("addr flush dev eth1")
    for words in ("addr add 172.26.0.11/32 dev eth1", "-6 addr add fd26::b/128 dev eth1 nodad"):
        ip(words)
    ip("route add 172.26.0.1 dev eth1")
    ip("route add 172.26.0.0/20 via 172.26.0.1")
    ip("route add default via 172.26.0.1")
    ip("-6 route add default via fe80::1 dev eth1")
    made = LearningNode(kernel, "172.26.0.11/32", "fd26::b/128")
    async with running(made):
        made.learn({FIRST: "172.26.0.12", FIRST6: "fd26::c"})
        await made.until(
            lambda: (
                lines(made, FIRST, FIRST6)
                == [
                    f"{FIRST} via 172.26.0.1 dev eth1 proto bird",
                    f"{FIRST6} via fe80::1 dev eth1 proto bird metric 1024",
                ]
            )
        )


async def test_a_learned_route_on_a_link_leads_to_further_next_hops_and_those_move_with_it(
    node: LearningNode,
) -> None:
    """A node's loopback address, as a switch announces it: IPv4 and IPv6, one switch, then the other."""
    many = {f"10.64.{number}.0/24": FAR for number in range(200)} | {FIRST6: FAR6}
    asked = "10.64.7.0/24", FIRST6
    node.learn({"10.99.0.9/32": "172.26.0.8", "fd99::9/128": "fd26::8", **many})
    before = [
        "10.64.7.0/24 via 172.26.0.8 dev eth1 proto bird",
        f"{FIRST6} via fd26::8 dev eth1 proto bird metric 1024",
    ]
    await node.until(lambda: lines(node, *asked) == before)
    node.learn({"10.99.0.9/32": "172.27.0.8", "fd99::9/128": "fd27::8", **many})
    after = [
        line.replace("172.26", "172.27").replace("fd26", "fd27").replace("eth1", "eth2") for line in before
    ]
    began = time.monotonic()
    await node.until(lambda: lines(node, *asked) == after)
    assert time.monotonic() - began < 1
    await node.quiet()
    assert all("172.26" not in line for line in lines(node, *many))


async def test_a_learned_route_that_needs_resolving_itself_leads_nowhere_further(node: LearningNode) -> None:
    node.learn({FIRST: "172.26.0.9", "10.99.0.0/16": "10.99.0.7", "10.77.0.0/24": FAR})
    await node.until(lambda: lines(node, FIRST) == [f"{FIRST} via 172.26.0.9 dev eth1 proto bird"])
    await node.quiet()
    assert lines(node, "10.77.0.0/24", "10.99.0.0/16") == ["none", "none"]
    why = "BGP's route to 10.99.0.0/16 leads there, and its own next hop 10.99.0.7 is on no link"
    assert {(str(key), one.why) for key, one in node.builder.without()} == {
        ("10.77.0.0/24", why),
        ("10.99.0.0/16", why),
    }


async def test_a_way_that_is_lost_keeps_its_routes_until_bgp_has_said_what_to_do(node: LearningNode) -> None:
    ip("route add 10.99.0.0/16 via 172.27.0.1")
    node.learn({FIRST: FAR})
    await node.until(lambda: lines(node, FIRST) == [f"{FIRST} via 172.27.0.1 dev eth2 proto bird"])
    lost = asyncio.Event()
    node.reconciler.next_hops.changed = lost.set
    ip("route del 10.99.0.0/16")
    async with asyncio.timeout(5):
        await lost.wait()
    await node.passed()
    assert lines(node, FIRST) == [f"{FIRST} via 172.27.0.1 dev eth2 proto bird"]


async def test_the_way_changes_from_one_interface_to_the_other_in_one_step(
    node: LearningNode, request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> None:
    many = {f"10.{number >> 8}.{number & 255}.0/24": FAR for number in range(4_000)}
    many.pop("10.99.0.0/24", None)
    ip("route add 10.99.0.9/32 via 172.26.0.1")
    node.learn(many)
    last = next(reversed(many))
    await node.until(lambda: lines(node, last) == [f"{last} via 172.26.0.1 dev eth1 proto bird"])
    await node.quiet()
    began = time.monotonic()
    ip("route replace 10.99.0.9/32 via 172.27.0.1")
    await node.until(lambda: lines(node, last) == [f"{last} via 172.27.0.1 dev eth2 proto bird"])
    taken = time.monotonic() - began
    moved = [said["count"] for said in node.log.of("route.moved")]
    assert moved == ([len(many)] if request.node.callspec.params["kernel"] else [])
    record_property("seconds", taken)
    print(f"4,000 routes moved in {taken * 1000:.0f} ms")
    routes = await node.kernel.routes()
    gateways = {str(routes[RouteKey(ip_network(prefix))].gateway) for prefix in many}
    assert gateways == {"172.27.0.1"}


async def test_what_is_on_a_link_is_never_replaced_by_what_a_peer_says(kernel: NetlinkKernel) -> None:
    """C12: connected routes with a metric, as NetworkManager makes them, or by a route alone."""
    ip("addr flush dev eth1")
    ip("addr add 172.26.0.11/32 dev eth1")
    ip("route add 172.26.0.0/20 dev eth1 proto kernel scope link src 172.26.0.11 metric 100")
    ip("route add 172.20.0.0/20 dev eth1 proto static scope link metric 100")
    ip("-6 addr add fd26::b/128 dev eth1 nodad")
    ip("-6 route add fd26::/64 dev eth1 proto ra metric 100")
    ip("route add default via 172.27.0.1 proto dhcp metric 100")
    node = LearningNode(kernel, "172.26.0.11/32", "fd26::b/128")
    said = ("172.26.0.0/20", "172.20.0.0/20", "fd26::/64", "0.0.0.0/0")
    async with running(node):
        node.learn({**dict.fromkeys(said, "172.27.0.1"), "fd26::/64": "fd27::1", FIRST: "172.27.0.1"})
        await node.until(lambda: lines(node, FIRST) != ["none"])
        await node.passed()
        assert lines(node, *said) == ["none"] * 4
        assert {str(key) for key in node.reconciler.snapshot().conflicts} == set(said)
        ip("route add 172.24.0.0/20 dev eth1 proto static scope link metric 100")
        node.learn({"172.24.0.0/20": "172.27.0.1", "172.25.0.0/20": "172.27.0.1"})
        await node.until(lambda: lines(node, "172.25.0.0/20") != ["none"])
        ip("route add 172.25.0.0/20 dev eth1 proto static scope link metric 100")  # it comes later
        await node.until(lambda: lines(node, "172.24.0.0/20", "172.25.0.0/20") == ["none"] * 2)
