"""Equal paths in the kernel: the same peers beside us and beside BIRD (`merge paths`), in the same place."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import structlog

from agent.clock import SystemClock
from agent.dataplane.desired.route_producers import learned_routes
from agent.dataplane.inputs.facts import Facts
from agent.dataplane.kernel.linux import NetlinkKernel
from agent.peering.bgp_controller import LearnedRoutes
from bgp.peer_config import PeerConfig, SpeakerConfig
from bgp.rib.multipath import NextHopSet
from bgp.transport.speaker import Speaker
from bgp.wire.families import Family
from ipam.model import NodeName
from tests.interop.announcers import Announcer, Said, written
from tests.interop.world import OURS, OURS6, THIRD, Far, Output, eventually, start

ASN, PORT = 64512, 179
INSIDE, OUTSIDE = {11: ASN, 12: ASN, 13: ASN}, {21: 65001, 22: 65002, 23: 65001}
"""The announcers by the last part of their addresses, and their AS."""
ALL = INSIDE | OUTSIDE


def inside(*lasts: int, **more: object) -> dict[int, dict[str, object]]:
    return {last: {"as_path": (65009,), "local_pref": 100, **more} for last in lasts}


def outside(*lasts: int, behind: tuple[int, ...] = (65009,), **more: object) -> dict[int, dict[str, object]]:
    return {last: {"as_path": (OUTSIDE[last], *behind), **more} for last in lasts}


SCENES: dict[str, dict[int, dict[str, object]]] = {
    "one path": inside(11),
    "two of the mesh": inside(11, 12),
    "three of the mesh": inside(11, 12, 13),
    "two ToRs of two AS": outside(21, 22),
    "two ToRs of one AS": outside(21, 23),
    "three ToRs": outside(21, 22, 23),
    "a ToR and a node": outside(21) | inside(11, as_path=(65001, 65009)),
    "two ToRs and two nodes": outside(21, 22) | inside(11, 12, as_path=(65001, 65009)),
    "nodes go before ToRs by LOCAL_PREF": outside(21, 22) | inside(11, 12, local_pref=200),
    "one is preferred": inside(11, 13) | inside(12, local_pref=200),
    "one path is longer": outside(21) | outside(22, behind=(65008, 65009)),
    "as long by other AS": inside(11, as_path=(65001, 65002)) | inside(12, as_path=(65003, 65004)),
    "one origin is incomplete": inside(11, 12) | inside(13, origin=2),
    "MED of one AS": outside(21, med=10) | outside(23, med=5),
    "MED of two AS": outside(21, med=10) | outside(22, med=5),
    "equal MED": outside(21, 22, 23, med=7),
    "one next hop of two reflectors": inside(11, 12, next_hop=31),
    "two next hops of two reflectors": inside(11, next_hop=31) | inside(12, next_hop=32),
    "next hops that cross": inside(11, next_hop=31) | inside(12, 13, next_hop=32),
    "reflected on ways of unequal length": inside(11, cluster_list=("10.255.0.1", "10.255.0.2"))
    | inside(12, cluster_list=("10.255.0.1",), originator_id="10.9.0.99"),
    "the default route": outside(21, 22),
}
"""Scene -> who announces its prefix, and how."""


def prefix(number: int, scene: str, version: int) -> str:
    if scene == "the default route":
        return "0.0.0.0/0" if version == 4 else "::/0"
    return f"10.50.{number}.0/24" if version == 4 else f"fd50:{number:x}::/64"


def address(last: int, version: int) -> str:
    return f"10.9.0.{last}" if version == 4 else f"fd09::{last}"


def announcers() -> list[Announcer]:
    found = []
    for version in (4, 6):
        for last, asn in ALL.items():
            said = []
            for number, (scene, by) in enumerate(SCENES.items(), 1):
                if last in by:
                    more = {"next_hop": last, **by[last]}
                    hop = address(int(str(more.pop("next_hop"))), version)
                    said.append(Said(prefix(number, scene, version), hop, **more))  # type: ignore[arg-type]
            found.append(Announcer(address(last, version), asn, f"10.9.0.{last}", tuple(said)))
    return found


Kernel = dict[str, list[tuple[str, str, int]]]
"""Prefix -> gateway, device and weight of each next hop."""


def kernel() -> Kernel:
    """The routes of BGP in this namespace."""
    found: Kernel = {}
    for flag in ("-4", "-6"):
        command = ["ip", "-j", flag, "route", "show", "proto", "bird"]
        for row in json.loads(subprocess.run(command, check=True, capture_output=True).stdout or "[]"):
            hops = row.get("nexthops", [row])
            whole = {"-4": "0.0.0.0/0", "-6": "::/0"}[flag]
            found[whole if row["dst"] == "default" else row["dst"]] = sorted(
                (hop["gateway"], hop["dev"], hop.get("weight", 1)) for hop in hops
            )
    return found


BIRD = """
router id {router_id};
protocol device {{ scan time 1; }}
protocol direct {{ ipv4; ipv6; }}
protocol kernel {{ ipv4 {{ import none; export where source = RTS_BGP; }}; merge paths on; }}
protocol kernel {{ ipv6 {{ import none; export where source = RTS_BGP; }}; merge paths on; }}
{peers}
"""


PEER = """
protocol bgp {{
  local {own} as {asn}; neighbor {address} as {their_as}; direct; connect delay time 1; connect retry time 1;
  ipv{version} {{ import all; export none; }};
}}
"""


def bird_config() -> str:
    peers = [
        PEER.format(
            own=OURS if version == 4 else OURS6,
            asn=ASN,
            address=address(last, version),
            their_as=asn,
            version=version,
        )
        for version in (4, 6)
        for last, asn in ALL.items()
    ]
    return BIRD.format(router_id=OURS, peers="".join(peers))


@dataclass(slots=True)
class Ours:
    """Our speaker, and the kernel's routes as the agent would have them."""

    speaker: Speaker
    kernel: NetlinkKernel
    changed: asyncio.Event

    async def until(self, expected: set[str], several: str = "") -> Kernel:
        """Write what is learned, until it is of just these prefixes, and one of them has several next hops."""
        facts = Facts(node=NodeName("n1"), links=await self.kernel.links())
        async with asyncio.timeout(30):
            while True:
                self.changed.clear()
                hops = dict(LearnedRoutes(self.speaker).items())
                ready = not several or any(
                    isinstance(some, NextHopSet) for key, some in hops.items() if str(key) == several
                )
                if self.speaker.converged and set(map(str, hops)) == expected and ready:
                    break
                await self.changed.wait()
        clear_kernel()
        assert not await self.kernel.put_routes(list(learned_routes(facts, hops.items())))
        return kernel()


def clear_kernel() -> None:
    for flag in ("-4", "-6"):
        subprocess.run(["ip", flag, "route", "flush", "proto", "bird"], check=True, capture_output=True)


@asynccontextmanager
async def node_of_ours(own: IPv4Address, *peers: PeerConfig) -> AsyncIterator[Ours]:
    """A speaker of ours with these peers; it originates nothing."""
    changed = asyncio.Event()
    config = SpeakerConfig(ASN, own, own, second_address=OURS6 if own == OURS else None)
    speaker = Speaker(config, SystemClock(), changed.set, structlog.get_logger())
    speaker.configure({peer.address: peer for peer in peers})
    speaker.announce(frozenset())
    task = asyncio.create_task(speaker.run())
    netlink = NetlinkKernel()
    try:
        yield Ours(speaker, netlink, changed)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        netlink.close()


def all_announcers() -> list[PeerConfig]:
    """As our peers."""
    return [
        PeerConfig(
            ip_address(address(last, version)),
            asn,
            local_address=OURS if version == 4 else OURS6,
            families=frozenset({Family.IPV4 if version == 4 else Family.IPV6}),
        )
        for version in (4, 6)
        for last, asn in ALL.items()
    ]


def expected_of(gone: tuple[int, ...]) -> set[str]:
    """The prefixes that somebody announces when some have gone."""
    return {
        prefix(number, scene, version)
        for version in (4, 6)
        for number, (scene, by) in enumerate(SCENES.items(), 1)
        if by.keys() - set(gone)
    }


@asynccontextmanager
async def announcing(far: Far, folder: Path) -> AsyncIterator[Output]:
    """The announcers, in the far namespace, at addresses of their own."""
    for version, bits in ((4, 24), (6, 64)):
        for last in ALL:
            own = f"{address(last, version)}/{bits}"
            far.run("ip", "address", "replace", own, "dev", "far0", *["nodad"] * (version == 6))
    file = folder / "announcers.json"
    file.write_text(written(announcers()))
    output = await start(
        *far.command(sys.executable, "-m", "tests.interop.announcers", str(file)), given=True
    )
    try:
        await output.until("ready")
        yield output
    finally:
        await output.end()


async def close(output: Output, *lasts: int) -> None:
    """These announcers end."""
    assert output.process.stdin is not None
    for last in lasts:
        for version in (4, 6):
            output.process.stdin.write(f"close {address(last, version)}\n".encode())
            await output.until("closed")


GONE = (11, 21)


async def test_equal_paths_are_in_the_kernel_as_bird_has_them_and_what_is_left_when_some_go(
    far: Far, tmp_path: Path
) -> None:
    ours: list[Kernel] = []
    async with announcing(far, tmp_path) as peers, node_of_ours(OURS, *all_announcers()) as node:
        ours.append(await node.until(expected_of(())))
        await close(peers, *GONE)
        ours.append(await node.until(expected_of(GONE)))
    clear_kernel()
    config = tmp_path / "bird.conf"
    config.write_text(bird_config())
    async with announcing(far, tmp_path) as peers:
        bird = await start("bird", "-f", "-c", str(config), "-s", str(tmp_path / "bird.ctl"))
        try:
            for mine, gone in zip(ours, ((), GONE), strict=True):
                await close(peers, *gone)
                await same(mine)
        finally:
            await bird.end()
    names = {
        prefix(number, scene, version): scene for version in (4, 6) for number, scene in enumerate(SCENES, 1)
    }
    widths = {names[one]: len(hops) for one, hops in ours[0].items()}
    assert widths["three ToRs"] == 3
    assert widths["MED of one AS"] == 1


async def same(mine: Kernel) -> None:
    """BIRD has these routes, sooner or later."""
    try:
        await eventually(lambda: kernel() == mine)
    except TimeoutError:
        theirs = kernel()
        assert {one: theirs.get(one) for one in mine | theirs} == {
            one: mine.get(one) for one in mine | theirs
        }


async def test_two_paths_behind_our_reflector_are_two_next_hops_in_the_kernel_of_its_client(
    far: Far, tmp_path: Path
) -> None:
    client = PeerConfig(THIRD, ASN, local_address=OURS, route_reflector_client=True, paths_sent=16)
    announcers_ = [replace(client, address=IPv4Address(address(last, 4))) for last in (11, 12)]
    number, scene = 2, "two of the mesh"
    assert list(SCENES)[number - 1] == scene
    async with (
        announcing(far, tmp_path) as peers,
        node_of_ours(OURS, client, *announcers_),
        node_of_ours(THIRD, PeerConfig(OURS, ASN, local_address=THIRD)) as behind,
    ):
        both = {
            prefix(one, name, 4) for one, (name, by) in enumerate(SCENES.items(), 1) if by.keys() & {11, 12}
        }
        found = await behind.until(both, several=prefix(number, scene, 4))
        assert found[prefix(number, scene, 4)] == [("10.9.0.11", "near0", 1), ("10.9.0.12", "near0", 1)]
        await close(peers, 11)
        left = {prefix(one, name, 4) for one, (name, by) in enumerate(SCENES.items(), 1) if 12 in by}
        found = await behind.until(left)
        assert found[prefix(number, scene, 4)] == [("10.9.0.12", "near0", 1)]
