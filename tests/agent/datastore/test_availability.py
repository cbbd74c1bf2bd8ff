"""What the datastore does not do is said once when it comes and once when it goes, with the moment since when."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from agent.datastore.availability import Availability
from agent.trouble import TroubleKind
from ipam.failures import StoreUnavailable
from tests.fakes.clock import SetClock

ETCD = ("http://172.26.0.1:2379",)


class Asked:
    """A datastore that answers what it is told to."""

    def __init__(self) -> None:
        self.doubtful = asyncio.Event()
        self.unheard: dict[str, str] = {}
        self.alarms: tuple[str, ...] = ()
        self.refused = ""
        self.asked = asyncio.Condition()
        self.count = 0

    async def health(self) -> tuple[str, ...]:
        async with self.asked:
            self.count += 1
            self.asked.notify_all()
        if self.refused:
            raise StoreUnavailable(self.refused)
        return self.alarms


class World:
    def __init__(self) -> None:
        self.store, self.clock = Asked(), SetClock()
        self.clock.at = 1_800_000_000.0
        self.found = Availability(self.store, ETCD, self.clock)

    async def events(self) -> list[str]:
        with capture_logs() as logs:
            await self.found.look()
        return [one["event"] for one in logs]

    @property
    def troubles(self) -> list[str]:
        found = list(self.found.troubles())
        assert {one.kind for one in found} <= {TroubleKind.DATASTORE}
        return [f"{one.about}: {one.evidence}" for one in found]


async def test_a_datastore_that_is_well_has_no_trouble() -> None:
    world = World()
    assert (await world.events(), world.troubles) == ([], [])
    assert (world.found.away, world.found.no_writes) == (None, None)


async def test_a_refused_connection_is_said_with_the_moment_and_its_end_with_how_long_it_was() -> None:
    world = World()
    world.store.refused = "connection refused"
    assert await world.events() == ["datastore.away"]
    world.clock.at += 3
    assert await world.events() == []
    since = "connection refused since 2027-01-15 08:00:00 UTC"
    assert (world.found.away, world.troubles) == (since, [f"etcd http://172.26.0.1:2379: {since}"])
    world.store.refused = "no answer within 5 s"
    assert await world.events() == [], "it is the same absence"
    assert world.found.away == "no answer within 5 s since 2027-01-15 08:00:00 UTC"
    world.store.refused = ""
    world.clock.at += 4
    with capture_logs() as logs:
        await world.found.look()
    assert [(one["event"], one["after_seconds"]) for one in logs] == [("datastore.away_over", 7.0)]
    assert (world.found.away, world.troubles) == (None, [])


@pytest.mark.parametrize(
    ("alarm", "event", "said"),
    [
        ("NOSPACE", "no_space", "etcd takes no writes: NOSPACE since 2027-01-15 08:00:00 UTC"),
        ("CORRUPT", "corrupt", "etcd takes no reads and no writes: CORRUPT since 2027-01-15 08:00:00 UTC"),
        ("NEWER", "alarm", "etcd's alarm NEWER is on since 2027-01-15 08:00:00 UTC"),
    ],
)
async def test_an_alarm_is_said_as_what_it_means_while_it_is_on(alarm: str, event: str, said: str) -> None:
    world = World()
    world.store.alarms = (alarm,)
    assert await world.events() == [f"datastore.{event}"]
    assert (world.found.no_writes, world.found.away) == (said, None)
    assert world.troubles == [f"etcd http://172.26.0.1:2379: {said}"]
    world.store.alarms = ()
    assert (await world.events(), world.found.no_writes) == ([f"datastore.{event}_over"], None)


async def test_a_watch_that_two_looks_find_without_a_stream_is_told_and_one_that_is_made_again_is_not() -> (
    None
):
    world = World()
    for prefixes in (["/a/"], [], ["/b/"], ["/a/"]):
        world.store.unheard = dict.fromkeys(prefixes, "permission denied")
        assert (await world.events(), world.troubles) == ([], [])
    world.store.unheard = {"/a/": "permission denied", "/b/": "silent"}
    assert await world.events() == ["datastore.deaf"]
    (said,) = world.troubles
    assert "nothing is heard of changes below /a/: permission denied since" in said
    world.store.refused = "connection refused"
    assert await world.events() == ["datastore.away", "datastore.deaf_over"], "that is why"


async def test_it_is_asked_at_once_when_something_is_doubtful() -> None:
    world = World()
    running = asyncio.create_task(world.found.run())
    try:
        async with asyncio.timeout(10), world.store.asked:
            for number in (1, 2, 3):
                await world.store.asked.wait_for(lambda: world.store.count >= number)  # noqa: B023
                world.store.doubtful.set()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
