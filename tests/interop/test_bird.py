"""A real BIRD 2 as neighbour: routes both ways, and restarts of either side that move no packet's route."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tests.interop.world import WAIT_SECONDS, Far, Ours, Output, start, two_namespaces, written

BLOCK, OTHER, LATER = "192.168.1.0/26", "192.168.2.0/26", "192.168.3.0/26"
THEIR_BLOCK = "192.168.50.0/26"
MANY = 100_000
POLL_SECONDS = 0.1
CONFIG = """
router id 10.9.0.2;
log stderr all;
graceful restart wait 20;
protocol device {{ scan time 1; }}
protocol direct {{ ipv4; }}
protocol kernel {{ ipv4 {{ import none; export {kernel}; }}; persist; graceful restart on; }}
protocol static {{ ipv4; route {their_block} blackhole; {routes} }}
protocol bgp node {{
  local 10.9.0.2 as {asn};
  neighbor 10.9.0.1 as {peer_as};
  direct;
  hold time 9; connect delay time 1; connect retry time 1; error wait time 1, 2;
  graceful restart on;
  {more}
  ipv4 {{ import all; export where source = RTS_STATIC; }};
}}
"""


@pytest.fixture
def far() -> Iterator[Far]:
    with two_namespaces() as namespace:
        yield namespace


class Bird:
    """A BIRD in the far namespace."""

    def __init__(
        self,
        far: Far,
        folder: Path,
        asn: int,
        peer_as: int,
        more: str = "",
        routes: str = "",
        kernel: str = "all",
    ) -> None:
        self._far = far
        self._control = str(folder / "bird.ctl")
        text = CONFIG.format(
            asn=asn, peer_as=peer_as, their_block=THEIR_BLOCK, more=more, routes=routes, kernel=kernel
        )
        self._config = written(folder / "bird.conf", text)
        self.log: Output | None = None

    async def start(self, *flags: str) -> None:
        command = self._far.command("bird", "-f", "-c", self._config, "-s", self._control, *flags)
        self.log = await start(*command, errors=True)
        await self.log.until("Started")

    async def kill(self) -> None:
        assert self.log is not None
        await self.log.end()

    def ask(self, *words: str) -> str:
        return self._far.run("birdc", "-s", self._control, *words)


@asynccontextmanager
async def running(
    far: Far,
    folder: Path,
    ours: Ours,
    asn: int = 64512,
    more: str = "",
    routes: str = "",
    kernel: str = "all",
) -> AsyncIterator[tuple[Bird, Output]]:
    """BIRD, and what its kernel says of routes."""
    bird = Bird(far, folder, asn, ours.asn, more, routes, kernel)
    await bird.start()
    monitor = await start(*far.command("ip", "-4", "-o", "monitor", "route"))
    try:
        yield bird, monitor
    finally:
        if ours.task is not None:
            await ours.kill()
        await monitor.end()
        await bird.kill()


async def test_routes_go_both_ways_and_a_withdrawn_one_leaves_the_kernel(far: Far, tmp_path: Path) -> None:
    ours = Ours()
    async with running(far, tmp_path, ours) as (bird, monitor):
        ours.start(BLOCK)
        await monitor.until(BLOCK, "via 10.9.0.1", "proto bird")
        await ours.until(lambda speaker: bool(speaker.learned) and speaker.converged)
        assert ours.learned() == {THEIR_BLOCK: "10.9.0.2"}
        assert "Established" in bird.ask("show", "protocols", "node")
        details = bird.ask("show", "route", BLOCK, "all")
        for line in ("BGP.origin: IGP", "BGP.as_path: \n", "BGP.next_hop: 10.9.0.1", "BGP.local_pref: 100"):
            assert line in details
        ours.announce(OTHER)
        await monitor.until("Deleted", BLOCK)


async def test_our_restart_changes_no_route_in_birds_kernel(far: Far, tmp_path: Path) -> None:
    ours = Ours()
    async with running(far, tmp_path, ours) as (bird, monitor):
        ours.start(BLOCK, OTHER)
        await monitor.until(BLOCK)
        await ours.until(lambda speaker: bool(speaker.learned))
        if not any(OTHER in line for line in monitor.lines):
            await monitor.until(OTHER)
        for _ in range(2):
            await ours.kill()
            ours.start(BLOCK, OTHER, restarting=True)
            await ours.until(lambda speaker: speaker.converged and bool(speaker.learned))
        seen = len(monitor.lines)
        ours.announce(BLOCK, OTHER, LATER)
        await monitor.until(LATER)
        assert monitor.lines[seen:-1] == []
        assert "Established" in bird.ask("show", "protocols", "node")


async def test_birds_restart_costs_us_no_path(far: Far, tmp_path: Path) -> None:
    ours = Ours()
    seen: list[bool] = []
    async with running(far, tmp_path, ours) as (bird, _):
        ours.start(BLOCK)
        await ours.until(lambda speaker: bool(speaker.learned) and speaker.converged)
        await bird.kill()
        await ours.until(lambda speaker: all(route.stale for route in speaker.learned.values()))
        seen.append(bool(ours.learned()))
        await bird.start("-R")

        def fresh(speaker: object) -> bool:
            seen.append(bool(ours.learned()))
            return not any(route.stale for route in ours.speaker.learned.values())

        await ours.until(fresh)
        assert all(seen)
        assert ours.learned() == {THEIR_BLOCK: "10.9.0.2"}


async def test_a_bird_of_another_as_learns_our_block_with_our_as_in_front(far: Far, tmp_path: Path) -> None:
    ours = Ours(peer_as=4200000001)
    async with running(far, tmp_path, ours, asn=4200000001) as (bird, monitor):
        ours.start(BLOCK)
        await monitor.until(BLOCK, "via 10.9.0.1")
        await ours.until(lambda speaker: bool(speaker.learned))
        assert ours.learned() == {THEIR_BLOCK: "10.9.0.2"}
        assert "BGP.as_path: 64512\n" in bird.ask("show", "route", BLOCK, "all")
        assert "1 of 3 routes" in bird.ask("show", "route", "protocol", "node", "count")


async def test_a_bird_that_is_shut_down_takes_its_paths_along(far: Far, tmp_path: Path) -> None:
    ours = Ours()
    async with running(far, tmp_path, ours) as (bird, _):
        ours.start(BLOCK)
        await ours.until(lambda speaker: bool(speaker.learned))
        bird.ask("disable", "node", '"back soon"')
        await ours.until(lambda speaker: not speaker.learned)
        (peer,) = ours.speaker.status()
        assert peer.last_error == "peer said: cease, administrative shutdown (6/2): back soon"


async def test_a_table_of_many_prefixes_goes_both_ways_and_no_hold_timer_expires(
    far: Far, tmp_path: Path
) -> None:
    ours = Ours()
    theirs = "".join(
        f"route {IPv4Address((20 << 24) + (number << 6))}/26 blackhole;\n" for number in range(MANY)
    )
    many = [f"{IPv4Address((30 << 24) + (number << 6))}/26" for number in range(MANY)]
    # Only the last prefix goes to the kernel, whose monitor would lose some of so many.
    async with running(far, tmp_path, ours, routes=theirs, kernel=f"where net = {BLOCK}") as (bird, monitor):
        ours.start(*many)
        await ours.until(lambda speaker: len(speaker.learned) == MANY + 1)
        ours.announce(*many, BLOCK)
        await monitor.until(BLOCK)
        told = ""
        for _ in range(int(WAIT_SECONDS / POLL_SECONDS)):  # the last prefix may come before the others
            if f"{MANY + 1} of" in (told := bird.ask("show", "route", "protocol", "node", "count")):
                break
            await asyncio.sleep(POLL_SECONDS)
        assert f"{MANY + 1} of" in told
        (peer,) = ours.speaker.status()
        assert (peer.received, peer.announced, peer.last_error) == (MANY + 1, MANY + 1, "")


async def test_one_password_and_one_hop_on_both_sides_bring_the_session_up(far: Far, tmp_path: Path) -> None:
    ours = Ours(more={"password": "secret", "ttl_security_hops": 1})
    more = 'password "secret"; ttl security on;'
    async with running(far, tmp_path, ours, more=more) as (_, monitor):
        ours.start(BLOCK)
        await monitor.until(BLOCK)
        await ours.until(lambda speaker: bool(speaker.learned))


async def test_a_reflecting_bird_takes_us_as_its_client(far: Far, tmp_path: Path) -> None:
    ours = Ours()
    async with running(far, tmp_path, ours, more="rr client; rr cluster id 10.255.0.1;") as (_, monitor):
        ours.start(BLOCK)
        await monitor.until(BLOCK)
        await ours.until(lambda speaker: bool(speaker.learned))


async def test_a_bird_that_asks_for_a_refresh_gets_everything_again(far: Far, tmp_path: Path) -> None:
    ours = Ours()
    async with running(far, tmp_path, ours) as (bird, monitor):
        ours.start(BLOCK)
        await monitor.until(BLOCK)
        # BIRD keeps no unfiltered table, so with another filter it asks for all of it.
        bird.ask("reload", "in", "node")
        ours.announce(BLOCK, OTHER)
        await monitor.until(OTHER)
        assert "2 of" in bird.ask("show", "route", "protocol", "node", "count")
        assert "Established" in bird.ask("show", "protocols", "node")
