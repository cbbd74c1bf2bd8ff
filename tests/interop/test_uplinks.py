"""A bare node on a cable to a router: found on the wire, IPv4 over link-local addresses, and packets flow."""

from __future__ import annotations

import asyncio
import os
import pwd
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv6Address, ip_network
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import structlog

from agent.clock import SystemClock
from agent.configuration.config import UplinkSettings
from agent.dataplane.kernel.linux import NetlinkKernel
from agent.netlink.objects import Address, Route, RouteKey
from agent.peering.uplink_peers import uplink_config, uplink_peers
from agent.uplinks.uplinks import Uplinks
from bgp.peer_config import SpeakerConfig
from bgp.session.fsm import State
from bgp.transport.speaker import Speaker
from bgp.wire.families import without_zone, zone_of
from tests.interop.world import Far, Output, cable, eventually, start, written

OWN, ROUTER = IPv4Address("10.255.0.1"), IPv4Address("10.255.0.9")
"""On the loopbacks: the only IPv4 addresses."""
BEHIND, BEHIND6 = "203.0.113.1", "2001:db8:9::1"
"""Hosts behind the router."""
OUR_AS, THEIR_AS = 64512, 65001
ROUTES_SECONDS = 5.0
"""From the link's coming up to the routes."""

FRR = """
frr defaults datacenter
router bgp 65001
 bgp router-id 10.255.0.9
 no bgp ebgp-requires-policy
 no bgp network import-check
 neighbor far0 interface remote-as external
 neighbor far0 timers 1 3
 neighbor far0 timers connect 1
 neighbor far0 advertisement-interval 0
{more}
 address-family ipv4 unicast
  network 203.0.113.0/24
 exit-address-family
 address-family ipv6 unicast
  network 2001:db8:9::/64
  neighbor far0 activate
 exit-address-family
"""
BIRD = """
router id 10.255.0.9;
log stderr all;
protocol device {{ scan time 1; }}
protocol kernel {{ ipv4 {{ import none; export where source = RTS_BGP; }}; }}
protocol kernel {{ ipv6 {{ import none; export where source = RTS_BGP; }}; }}
protocol static {{ ipv4; route 203.0.113.0/24 blackhole; }}
protocol static {{ ipv6; route 2001:db8:9::/64 blackhole; }}
{advertisements}
protocol bgp nodes {{
  local as 65001;
  neighbor range fe80::/10 external;
  interface "far0";
  dynamic name "node";
  hold time 3; connect retry time 1; error wait time 1, 2;
  {more}
  ipv4 {{ import all; export where source = RTS_STATIC; extended next hop on; }};
  ipv6 {{ import all; export where source = RTS_STATIC; }};
}}
"""
RADV = 'protocol radv { interface "far0" { max ra interval 4; min ra interval 3; default lifetime 0; }; }'


class Node:
    """Our speaker, its uplinks, and its routes in the kernel of this thread's namespace."""

    def __init__(self, **settings: Any) -> None:
        self.changed = asyncio.Event()
        clock = SystemClock()
        config = SpeakerConfig(OUR_AS, OWN, OWN)
        self.speaker = Speaker(config, clock, self._changed, structlog.get_logger())
        self.speaker.announce(frozenset({ip_network(f"{OWN}/32")}))
        self.password = settings.pop("password", "")
        self.uplinks = Uplinks(
            [UplinkSettings(**settings)], self.sessions, clock, self._found, self.speaker.call_now
        )
        self.kernel = NetlinkKernel()
        self.written: set[RouteKey] = set()

    def _changed(self) -> None:
        self.changed.set()

    def sessions(self) -> dict[Address, tuple[str, str]]:
        return {one.address: (one.state.value, one.last_error) for one in self.speaker.status()}

    def _found(self) -> None:
        peers = uplink_peers(self.uplinks.found)
        more = {"hold_seconds": 3, "maximum_prefixes": 0, "maximum_octets": 0}
        self.speaker.configure(
            {one.address: uplink_config(one, OUR_AS, self.password, **more) for one in peers}
        )
        self.changed.set()

    async def follow(self) -> None:
        """Best paths become routes, as the dataplane makes them of a link-local next hop."""
        while True:
            await self.changed.wait()
            self.changed.clear()
            learned = self.speaker.learned
            routes = [
                Route(RouteKey(prefix), gateway=without_zone(one.next_hop), device=zone_of(one.next_hop))
                for prefix, one in learned.items()
            ]
            if new := [route for route in routes if route.key not in self.written]:
                assert not await self.kernel.put_routes(new)
                self.written |= {route.key for route in new}

    def states(self) -> list[State]:
        return [one.state for one in self.speaker.status()]

    def row(self) -> dict[str, Any]:
        (row,) = self.uplinks.report()
        return row

    def learned(self) -> dict[str, Address]:
        return {str(prefix): one.next_hop for prefix, one in self.speaker.learned.items()}

    async def until(self, holds: Callable[[], bool], seconds: float = 30.0) -> float:
        """How long it took."""
        began = time.monotonic()
        async with asyncio.timeout(seconds):
            await eventually(holds)
        return time.monotonic() - began


@asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[Node]:
    node = Node(**{"interface": "near*"} | settings)
    runs = (node.speaker.run(), node.uplinks.run(), node.follow())
    tasks = [asyncio.create_task(run) for run in runs]
    try:
        yield node
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        node.kernel.close()


@pytest.fixture
def far() -> Iterator[Far]:
    with cable(str(OWN), str(ROUTER), BEHIND, BEHIND6) as made:
        yield made


@asynccontextmanager
async def frr(far: Far, folder: Path, more: str = "") -> AsyncIterator[Callable[..., str]]:
    """FRR with a neighbour that is an interface; answers how it is asked."""
    written(folder / "bgpd.conf", FRR.format(more=more))
    written(folder / "zebra.conf", "")
    owner = pwd.getpwnam("frr")
    Path("/run/frr").mkdir(exist_ok=True)
    for path in (Path("/run/frr"), folder, *folder.glob("*.conf")):
        os.chown(path, owner.pw_uid, owner.pw_gid)
    for one in takewhile(lambda parent: parent != Path(tempfile.gettempdir()), folder.parents):
        one.chmod(0o755)  # FRR's user comes through them
    daemons: list[Output] = []
    try:
        for name, there, flags in (("zebra", "zserv.api", ()), ("bgpd", "bgpd.vty", ())):
            command = (f"/usr/lib/frr/{name}", "-f", str(folder / f"{name}.conf"))
            paths = ("-z", str(folder / "zserv.api"), "-i", str(folder / f"{name}.pid"))
            daemons.append(
                await start(
                    *far.command(*command, *paths, "-A", "127.0.0.1", "--vty_socket", str(folder), *flags)
                )
            )
            await eventually((folder / there).exists)
        yield lambda *words: far.run("vtysh", "--vty_socket", str(folder), "-c", " ".join(words))
    finally:
        for one in reversed(daemons):
            await one.end()


@asynccontextmanager
async def bird(far: Far, folder: Path, *, advertises: bool, more: str = "") -> AsyncIterator[None]:
    """BIRD that waits for whoever calls from the link."""
    text = BIRD.format(advertisements=RADV if advertises else "", more=more)
    config = written(folder / "bird.conf", text)
    output = await start(*far.command("bird", "-f", "-c", config, "-s", str(folder / "ctl")), errors=True)
    try:
        await output.until("Started")
        yield
    finally:
        await output.end()


def pings(address: str, source: str) -> bool:
    """Whether a packet gets there and back."""
    import subprocess

    words = ["ping", "-c", "1", "-W", "2", "-I", source, address]
    return subprocess.run(words, check=False, capture_output=True).returncode == 0


async def test_frr_s_unnumbered_neighbour_and_a_bare_node_find_each_other_and_packets_flow(
    far: Far, tmp_path: Path
) -> None:
    async with frr(far, tmp_path) as ask, running() as node:
        far.run("ip", "link", "set", "far0", "down")
        await node.until(lambda: node.row()["why_not"] == "no link: there is no carrier")
        began = time.monotonic()
        far.run("ip", "link", "set", "far0", "up")
        await node.until(lambda: "203.0.113.0/24" in node.learned() and bool(node.written), 60)
        took = time.monotonic() - began
        print(f"routes {took:.2f} s after the link came up")
        assert "router advertisement" in node.row()["found_by"]
        hop = node.learned()["203.0.113.0/24"]
        assert isinstance(hop, IPv6Address)
        assert (hop.is_link_local, hop.scope_id) == (True, "near0")
        await node.until(lambda: "10.255.0.1" in ask("show ip route 10.255.0.1/32"))
        await node.until(lambda: pings(BEHIND, str(OWN)))
        assert took <= ROUTES_SECONDS
        assert node.row()["why_not"] == ""
        # The cable out and in again: the session is a new one, and packets flow again.
        far.run("ip", "link", "set", "far0", "down")
        await node.until(lambda: State.ESTABLISHED not in node.states())
        began = time.monotonic()
        far.run("ip", "link", "set", "far0", "up")
        await node.until(lambda: State.ESTABLISHED in node.states())
        again = time.monotonic() - began
        print(f"session {again:.2f} s after the link came back")
        assert again <= ROUTES_SECONDS


async def test_a_session_over_an_uplink_is_signed_and_near_as_its_settings_say(
    far: Far, tmp_path: Path
) -> None:
    more = 'password "pw"; ttl security on;'
    async with (
        bird(far, tmp_path, advertises=True, more=more),
        running(password="pw", ttl_security=True) as node,
    ):
        await node.until(lambda: "203.0.113.0/24" in node.learned(), 60)


@pytest.mark.parametrize("advertises", [True, False], ids=["by its advertisements", "without any"])
async def test_bird_that_waits_for_whoever_calls_from_the_link_is_found(
    far: Far, tmp_path: Path, advertises: bool
) -> None:
    async with bird(far, tmp_path, advertises=advertises), running() as node:
        took = await node.until(lambda: "203.0.113.0/24" in node.learned() and bool(node.written), 60)
        print(f"routes after {took:.2f} s, found by {node.row()['found_by']}")
        await node.until(lambda: pings(BEHIND, str(OWN)))
        await node.until(lambda: "2001:db8:9::/64" in node.learned())


async def test_a_router_of_our_own_as_is_none_to_an_external_uplink(far: Far, tmp_path: Path) -> None:
    async with bird(far, tmp_path, advertises=True), running(remote_as=OUR_AS + 7) as node:
        await node.until(lambda: "configured is AS" in node.row()["why_not"], 60)
