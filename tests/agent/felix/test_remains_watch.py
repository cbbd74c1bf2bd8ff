"""What is left is a trouble from the first reading on, once in the log; what cannot be read changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import pytest

from agent.clock import SystemClock
from agent.felix.felix_rules import Action, FilterChain, FilterRemains, FilterRule, FilterTable
from agent.felix.kernel_rules import legacy_stamp, read_filter_remains
from agent.felix.remains_watch import RemainsWatch
from agent.netlink.kernel_errors import KernelError
from agent.trouble import TroubleKind
from tests.fixtures.namespace import fresh_namespace
from tests.scenes.felix.left_rules import leave_rules, run

DROPPING = FilterTable(
    "nftables",
    "ip",
    "calico",
    {"f": FilterChain("f", (FilterRule(Action.DROP),), "forward")},
    calicos_chains=1,
)
IDLE = FilterTable("nftables", "ip", "nat", {"f": FilterChain("f")}, calicos_chains=1)
CURE = "`tortie node remove-calico` shows what is left and takes it away"


class Readings:
    """A kernel that answers what it is told."""

    def __init__(self) -> None:
        self.answer: FilterRemains | KernelError = FilterRemains()

    async def read(self) -> FilterRemains:
        if isinstance(self.answer, KernelError):
            raise self.answer
        return self.answer


@pytest.fixture
def readings() -> Readings:
    return Readings()


@pytest.fixture
def watch(readings: Readings) -> RemainsWatch:
    return RemainsWatch(readings.read, tuple, SystemClock())


async def test_no_pod_is_made_before_the_rules_were_read(watch: RemainsWatch) -> None:
    assert watch.drops_new_pods() == "the kernel's filter rules have not been read yet"
    assert list(watch.troubles()) == []
    await watch.look()
    assert watch.drops_new_pods() is None


async def test_rules_that_drop_are_a_trouble_while_they_are_there(
    watch: RemainsWatch, readings: Readings
) -> None:
    for answer in (
        FilterRemains((DROPPING,)),
        FilterRemains((DROPPING,)),
        FilterRemains(),
        FilterRemains(),
    ):
        readings.answer = answer
        await watch.look()
        found = list(watch.troubles())
        assert (watch.drops_new_pods() is not None) is bool(answer.tables)
        assert [trouble.kind for trouble in found] == [TroubleKind.CALICO] * len(answer.tables)
        for trouble in found:
            assert "the rule `drop` of chain f in nftables table ip calico" in trouble.evidence
            assert trouble.cure == CURE


async def test_rules_that_only_filter_are_a_trouble_and_stop_no_pod(
    watch: RemainsWatch, readings: Readings
) -> None:
    readings.answer = FilterRemains((IDLE,) * 9)
    await watch.look()
    (trouble,) = watch.troubles()
    assert trouble.evidence.endswith("and 5 more filter by policies that nobody updates")
    assert watch.drops_new_pods() is None


async def test_what_was_read_last_holds_while_nothing_can_be_read(
    watch: RemainsWatch, readings: Readings
) -> None:
    readings.answer = FilterRemains((DROPPING,), ("iptables-legacy table ip raw: Permission denied",))
    await watch.look()
    readings.answer = KernelError("a dump failed")
    await watch.look()
    assert watch.drops_new_pods() is not None
    evidence = [trouble.evidence for trouble in watch.troubles()]
    assert evidence[1:] == [
        "cannot be looked for: iptables-legacy table ip raw: Permission denied",
        "cannot be looked for: a dump failed",
    ]


async def test_a_kernel_that_never_answers_is_a_trouble_and_stops_no_pod(
    watch: RemainsWatch, readings: Readings
) -> None:
    readings.answer = KernelError("Operation not permitted")
    await watch.look()
    assert watch.drops_new_pods() is None
    assert [trouble.evidence for trouble in watch.troubles()] == [
        "cannot be looked for: Operation not permitted"
    ]


@pytest.fixture
def namespace() -> Iterator[None]:
    with fresh_namespace():
        yield


@asynccontextmanager
async def running(watch: RemainsWatch) -> AsyncIterator[None]:
    task = asyncio.create_task(watch.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("mode", ["nft inet", "ip6tables-nft", "iptables-legacy"])
async def test_a_change_in_the_kernel_is_seen_within_a_second(namespace: None, mode: str) -> None:
    looked: asyncio.Queue[FilterRemains] = asyncio.Queue()

    async def read() -> FilterRemains:
        found = await read_filter_remains()
        looked.put_nowait(found)
        return found

    async def until(*, left: bool) -> None:
        async with asyncio.timeout(1.0):
            while bool((await looked.get()).tables) is not left:
                pass

    async with running(RemainsWatch(read, legacy_stamp, SystemClock())):
        await until(left=False)
        leave_rules(mode)
        await until(left=True)
        if "nft" in mode:
            run(["nft", "flush", "ruleset"])
        else:
            run([f"{mode}-restore"], "*filter\nCOMMIT\n*nat\nCOMMIT\n")
        await until(left=False)
