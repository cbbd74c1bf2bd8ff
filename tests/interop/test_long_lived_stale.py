"""Long-lived graceful restart with BIRD and FRR, both roles, in seconds instead of hours (RFC 9494)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from bgp.transport.speaker import Speaker
from bgp.wire.families import Family
from bgp.wire.iana import WellKnown
from tests.interop.daemon import THEIR_BLOCK, Daemon, Setup
from tests.interop.daemons import DAEMONS
from tests.interop.world import THEIRS, Far, Ours, eventually

BLOCK = "192.168.1.0/26"
RESTART_SECONDS, STALE_SECONDS = 1, 60
MARKED = {"bird": "(65535,6)", "frr": "llgr-stale"}
"""LLGR_STALE in each one's words."""

Running = Callable[..., AbstractAsyncContextManager[Daemon]]


@pytest.fixture(params=MARKED)
def running(request: pytest.FixtureRequest, far: Far) -> Running:
    """Each daemon in turn; it asks for long-lived graceful restart, and keeps what others ask for."""

    @asynccontextmanager
    async def run(ours: Ours) -> AsyncIterator[Daemon]:
        setup = Setup(restart_seconds=RESTART_SECONDS, long_lived_seconds=STALE_SECONDS)
        daemon = DAEMONS[request.param](far, setup)
        try:
            await daemon.follow()
            await daemon.start()
            yield daemon
        finally:
            if ours.task is not None:
                await ours.kill()
            await daemon.close()

    return run


def marks(speaker: Speaker) -> list[bool]:
    """Of each learned path whether it is marked long-lived stale."""
    rib = speaker.instance.ribs[Family.IPV4]
    paths = filter(None, map(rib.best, rib.prefixes))
    return [WellKnown.LLGR_STALE in one.attributes.communities for one in paths if not one.source.is_own]


async def test_a_peer_that_asks_for_it_and_is_away_is_kept_and_comes_back(running: Running) -> None:
    ours, kept = Ours(), list[bool]()
    async with running(ours) as daemon:
        ours.start(BLOCK)
        await ours.until(lambda speaker: bool(speaker.learned) and speaker.converged)
        assert marks(ours.speaker) == [False]
        await daemon.kill()

        def sees(expected: list[bool]) -> Callable[[Speaker], bool]:
            def look(speaker: Speaker) -> bool:
                kept.append(bool(speaker.learned))
                return marks(speaker) == expected

            return look

        await ours.until(sees([True]))
        await daemon.start(again=True)
        await ours.until(sees([False]))
        assert all(kept)
        assert ours.learned() == {THEIR_BLOCK: str(THEIRS)}


async def test_a_peer_that_we_ask_keeps_our_paths_while_we_are_away(running: Running) -> None:
    more = {"restart_seconds": RESTART_SECONDS, "long_lived_stale_seconds": STALE_SECONDS}
    ours = Ours(more=more)
    async with running(ours) as daemon:
        ours.start(BLOCK)
        await daemon.watch.until(known=(BLOCK,))
        await ours.until(lambda speaker: bool(speaker.learned) and speaker.converged)
        mark = MARKED[daemon.name]
        assert mark not in daemon.paths(BLOCK)
        seen = len(daemon.watch.events)
        await ours.kill()
        await eventually(lambda: mark in daemon.paths(BLOCK))
        ours.start(BLOCK, "192.168.2.0/26", restarting=True)
        await daemon.watch.until(known=("192.168.2.0/26",))
        await eventually(lambda: mark not in daemon.paths(BLOCK))
        assert [line for line in daemon.watch.events[seen:] if line.startswith("Deleted")] == []
