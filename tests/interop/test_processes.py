"""A process of ours among a foreign neighbour and one of our own: killed and started again, and terminated."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path

import pytest

from tests.interop.daemon import Setup
from tests.interop.daemons import DAEMONS
from tests.interop.world import (
    OURS,
    THEIRS,
    THIRD,
    Far,
    Ours,
    Output,
    eventually,
    start,
    written,
)

BLOCK, LATER = "192.168.1.0/26", "192.168.3.0/26"
GONE_SECONDS = 1.0
CONFIG = """
as = 64512
router_id = "{own}"
listen = "{own}"
announce = ["{block}"]
restarting = {restarting}
drain_text = "back soon"
[[peer]]
address = "{theirs}"
as = 64512
[[peer]]
address = "{third}"
as = 64512
"""


@asynccontextmanager
async def running(path: Path, *, restarting: bool, block: str = BLOCK) -> AsyncIterator[Output]:
    """`python -m bgp`, listening; killed at the end."""
    text = CONFIG.format(
        own=OURS, theirs=THEIRS, third=THIRD, block=block, restarting="true" if restarting else "false"
    )
    process = await start(sys.executable, "-m", "bgp", written(path, text))
    try:
        await process.until('"listening"')
        yield process
    finally:
        await process.end()


@pytest.mark.parametrize("name", DAEMONS)
async def test_kill_9_and_a_start_move_no_route_of_any_neighbour_and_a_drain_takes_ours_away_at_once(
    far: Far, tmp_path: Path, name: str
) -> None:
    daemon = DAEMONS[name](far, Setup())
    third = Ours(address=THIRD, peer=OURS)
    block = ip_network(BLOCK)
    try:
        await daemon.follow()
        await daemon.start()
        third.start("192.168.4.0/26")
        async with running(tmp_path / "first.toml", restarting=False):
            await daemon.watch.until(known=(BLOCK,))
            await third.until(lambda speaker: block in speaker.learned)
            third.speaker.take_changed()
            seen = len(daemon.watch.events)
        await third.until(lambda speaker: speaker.learned[block].stale)
        async with running(tmp_path / "second.toml", restarting=True) as process:
            await process.until('"converged"')
            await third.until(lambda speaker: not speaker.learned[block].stale)
            text = (tmp_path / "second.toml").read_text()
            written(tmp_path / "second.toml", text.replace(f'"{BLOCK}"', f'"{BLOCK}", "{LATER}"'))
            process.process.send_signal(signal.SIGHUP)
            await daemon.watch.until(known=(LATER,))
            assert [line for line in daemon.watch.events[seen:] if LATER not in line] == []
            async with asyncio.timeout(GONE_SECONDS):
                process.process.send_signal(signal.SIGTERM)
                await daemon.watch.until(gone=(BLOCK, LATER))
                await eventually(lambda: block not in third.speaker.learned)
    finally:
        if third.task is not None:
            await third.kill()
        await daemon.close()
