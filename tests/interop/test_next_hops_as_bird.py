"""How next hops are reached, beside BIRD's recursive gateways: of the same kernel's routes the same routes follow.

Each scene is built in two fresh namespaces, one with us and one with BIRD, and changed step by step; after each the
kernel's routes of both are compared, IPv4 and IPv6. BIRD's `route P recursive H` is looked up as BGP's `gateway
recursive` is (nest/rt-table.c, rt_update_hostentry), and needs no peer. Where nothing leads there BIRD has a route
`unreachable`, and we have none: that is left out. So is a gateway on no subnet that is not `onlink`: BIRD takes no such
route from the kernel, though the kernel has it; tests/agent/dataplane/reconciler/test_next_hops_that_move.py has it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

import pytest

from agent.dataplane.kernel.linux import NetlinkKernel
from agent.netlink.objects import RouteKey
from tests.fixtures.namespace import fresh_namespace, ip, make_links
from tests.interop.world import start, written
from tests.scenes.dataplane.learning_node import LearningNode
from tests.scenes.dataplane.reconcilers import running

SECONDS = 20
FAR, FAR6 = "10.99.0.9", "fd99::9"
BEHIND, BEHIND6 = "10.88.0.0/24", "fd88::/64"

BIRD = """
router id 10.0.0.1;
log stderr all;
protocol device {{ scan time 1; }}
protocol direct {{ ipv4; ipv6; }}
protocol kernel k4 {{ learn; scan time 1; ipv4 {{ import all; export where source = RTS_STATIC; }}; }}
protocol kernel k6 {{ learn; scan time 1; ipv6 {{ import all; export where source = RTS_STATIC; }}; }}
{routes}
"""


@dataclass(frozen=True, slots=True)
class Scene:
    """Commands of ip(8), in steps; where the prefixes lead after each step is asked of both."""

    name: str
    steps: Sequence[Sequence[str]]
    hops: tuple[str, str] = (FAR, FAR6)
    own: bool = True
    """eth1 and eth2 have their subnets; else the scene gives them addresses."""

    @property
    def routes(self) -> Mapping[str, str]:
        return {BEHIND: self.hops[0], BEHIND6: self.hops[1]}


DEFAULTS = (
    "route add default via 172.26.0.1 proto dhcp metric 100",
    "-6 route add default via fe80::1 dev eth1 proto ra",
)
SCENES = (
    Scene("on a link", [()], ("172.27.0.77", "fd27::77")),
    Scene("the default routes of DHCP and of a router advertisement", [DEFAULTS]),
    Scene(
        "a static route through another router",
        [(*DEFAULTS, "route add 10.99.0.0/16 via 172.27.0.1", "-6 route add fd99::/64 via fd27::1")],
    ),
    Scene(
        "the way changes from eth1 to eth2, and back",
        [
            DEFAULTS,
            ("route add 10.99.0.0/16 via 172.27.0.1", "-6 route add fd99::/64 via fd27::1"),
            ("route del 10.99.0.0/16", "-6 route del fd99::/64"),
        ],
    ),
    Scene(
        "the default gateway is another one",
        [
            DEFAULTS,
            (
                "route replace default via 172.26.0.2 proto dhcp metric 100",
                "-6 route replace default via fe80::2 dev eth1 proto ra",
            ),
        ],
    ),
    Scene(
        "hosts of one address, the gateway by a link route",
        [
            (
                "addr add 172.26.0.11/32 dev eth1",
                "route add 172.26.0.1 dev eth1",
                "route add 172.26.0.0/20 via 172.26.0.1 dev eth1 onlink",
                "route add default via 172.26.0.1 dev eth1 onlink",
                "-6 addr add fd26::b/128 dev eth1 nodad",
                "-6 route add fd26::1 dev eth1",
                "-6 route add default via fd26::1 dev eth1 onlink",
            )
        ],
        ("172.26.0.12", "fd26::c"),
        own=False,
    ),
    Scene(
        "IPv6 without a prefix on the link",
        [
            (
                "addr add 172.26.0.11/20 dev eth1",
                "route add default via 172.26.0.1",
                "-6 addr add fd26::b/128 dev eth1 nodad",
                "-6 route add default via fe80::1 dev eth1 proto ra",
            )
        ],
        ("172.26.0.12", "fd26::c"),
        own=False,
    ),
    Scene(
        "a network that is on a link by a route alone",
        [("route add 10.99.0.0/24 dev eth2", "-6 route add fd99::/64 dev eth2")],
    ),
    Scene(
        "a host that is on a link by a route alone",
        [(*DEFAULTS, f"route add {FAR} dev eth2", f"-6 route add {FAR6} dev eth2")],
    ),
    Scene(
        "the longest of several",
        [
            (
                *DEFAULTS,
                "route add 10.96.0.0/11 via 172.26.0.3",
                "route add 10.99.0.0/24 via 172.27.0.3",
                "route add 10.99.0.0/28 via 172.27.0.4",
                "-6 route add fd00::/8 via fd26::3",
                "-6 route add fd99::/48 via fd27::3",
                "-6 route add fd99::/120 via fd27::4",
            )
        ],
    ),
    Scene(
        "a host's own route above its subnet",
        [("route add 172.26.0.77 via 172.27.0.1", "-6 route add fd26::77 via fd27::1")],
        ("172.26.0.77", "fd26::77"),
    ),
    Scene(
        "an equal-cost static route",
        [
            (
                f"route add {FAR} nexthop via 172.26.0.1 nexthop via 172.27.0.1",
                f"-6 route add {FAR6} nexthop via fd26::1 nexthop via fd27::1",
            )
        ],
    ),
    Scene(
        "a static route with weights",
        [
            (
                "route add 10.99.0.0/16 nexthop via 172.26.0.1 weight 3 nexthop via 172.27.0.1 weight 1",
                "-6 route add fd99::/64 nexthop via fd26::1 weight 3 nexthop via fd27::1 weight 1",
            )
        ],
    ),
    Scene(
        "one of several is taken out, and comes back",
        [
            (
                f"route add {FAR} nexthop via 172.26.0.1 nexthop via 172.27.0.1",
                f"-6 route add {FAR6} nexthop via fd26::1 nexthop via fd27::1",
            ),
            (f"route replace {FAR} via 172.27.0.1", f"-6 route replace {FAR6} via fd27::1"),
            (
                f"route replace {FAR} nexthop via 172.26.0.2 nexthop via 172.27.0.1",
                f"-6 route del {FAR6}",
                f"-6 route add {FAR6} nexthop via fd26::2 nexthop via fd27::1",
            ),
        ],
    ),
    Scene(
        "a gateway that is said to be on the link",
        [
            (
                "route add 10.99.0.0/16 via 10.1.1.1 dev eth2 onlink",
                "-6 route add fd99::/64 via fd01::1 dev eth2 onlink",
            )
        ],
    ),
    Scene(
        "the link of the longer route goes down",
        [
            (*DEFAULTS, "route add 10.99.0.0/16 via 172.27.0.1", "-6 route add fd99::/64 via fd27::1"),
            ("link set eth2 down",),
        ],
    ),
    Scene(
        "a route appears where there was none",
        [(), DEFAULTS],
    ),
    Scene(
        "two default routes, the lower metric decides, and goes",
        [
            (
                *DEFAULTS,
                "route add default via 172.27.0.1 proto static metric 50",
                "-6 route add default via fd27::1 proto static metric 50",
            ),
            ("route del default metric 50", "-6 route del default metric 50"),
        ],
    ),
    Scene(
        "IPv4 by a gateway of IPv6",
        [
            (
                "-4 route add 10.99.0.0/16 via inet6 fe80::1 dev eth2",
                "-6 route add fd99::/64 via fe80::1 dev eth2",
            )
        ],
    ),
    Scene("a prefix of IPv4 with a next hop of IPv6", [DEFAULTS], (FAR6, FAR6)),
)


def prepare(scene: Scene) -> None:
    make_links("eth1", "eth2")
    if scene.own:
        for name, own, own6 in (
            ("eth1", "172.26.0.11/20", "fd26::b/64"),
            ("eth2", "172.27.0.11/20", "fd27::b/64"),
        ):
            ip(f"addr add {own} dev {name}")
            ip(f"addr add {own6} dev {name} nodad")


@pytest.fixture
def kernel() -> Iterator[NetlinkKernel]:
    with fresh_namespace():
        made = NetlinkKernel()
        yield made
        made.close()


async def leads(kernel: NetlinkKernel) -> dict[str, list[str]]:
    """Prefix -> where it leads, if anywhere; the metrics and the protocol left out."""
    found: dict[str, list[str]] = {}
    for key, route in (await kernel.routes()).items():
        hops = route.target.next_hops()
        if str(key) in (BEHIND, BEHIND6) and hops:
            found[str(key)] = [
                f"{hop.gateway} {hop.device} {hop.weight} {'onlink' * hop.onlink}" for hop in hops
            ]
    return found


async def ours(scene: Scene, kernel: NetlinkKernel) -> list[dict[str, list[str]]]:
    prepare(scene)
    node = LearningNode(kernel, "172.26.0.11/20", "fd26::b/64")
    node.learn(scene.routes)
    found = []
    async with running(node):
        for step in scene.steps:
            for words in step:
                ip(words)
            node.reconciler.read_routes()  # behind all that was said until now
            for _ in range(3):
                await node.passed()
            found.append(await leads(kernel))
    return found


async def birds(
    scene: Scene, folder: Path, expected: list[dict[str, list[str]]]
) -> list[dict[str, list[str]]]:
    """What BIRD comes to; that is waited for as long as it is not what is expected."""
    prepare(scene)
    lines = []
    for number, (prefix, hop) in enumerate(scene.routes.items()):
        family, table = (6 if ":" in prefix else 4), ("master6" if ":" in hop else "master4")
        lines.append(
            f"protocol static s{number} {{ ipv{family}; igp table {table}; route {prefix} recursive {hop}; }}"
        )
    config = written(folder / "bird.conf", BIRD.format(routes="\n".join(lines)))
    for words in scene.steps[0]:
        ip(words)
    kernel, bird = NetlinkKernel(), None
    try:
        with closing(kernel.changes()) as changes:
            bird = await start("bird", "-f", "-c", config, "-s", str(folder / "bird.ctl"), errors=True)
            await bird.until("Started")
            found = []
            for number, wanted in enumerate(expected):
                for words in scene.steps[number] if number else ():
                    ip(words)
                try:
                    async with asyncio.timeout(SECONDS):
                        while await leads(kernel) != wanted:
                            await anext(changes)
                except TimeoutError:
                    pass  # compared below
                found.append(await leads(kernel))
    finally:
        if bird is not None:
            await bird.end()
        kernel.close()
    return found


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
async def test_the_routes_behind_a_next_hop_are_birds(
    scene: Scene, kernel: NetlinkKernel, tmp_path: Path
) -> None:
    expected = await ours(scene, kernel)
    with fresh_namespace():
        assert await birds(scene, tmp_path, expected) == expected
    assert expected[-1].keys() == {BEHIND, BEHIND6}
    assert RouteKey(ip_network(BEHIND)) in await kernel.routes()
