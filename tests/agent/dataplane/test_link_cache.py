"""Links are read one by one as events name them; what is known is at every moment what reading all would say."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.dataplane.kernel.dataplane_objects import Dataplane
from agent.dataplane.link_cache import MOST_ONE_BY_ONE, LinkCache
from agent.netlink.kernel_errors import KernelError
from agent.netlink.objects import Link
from tests.fakes.kernel import FakeKernel
from tests.scenes.dataplane.desired_states import EVERYTHING
from tests.scenes.dataplane.reconcilers import Bench, running


class Counting(FakeKernel):
    """Notes how links are read, and may refuse."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[str] = []
        self.refuses = False

    async def links(self) -> Mapping[str, Link]:
        self.read.append("all")
        self._maybe_refuse()
        return await super().links()

    async def link(self, name: str) -> Link | None:
        self.read.append(name)
        self._maybe_refuse()
        return await super().link(name)

    def _maybe_refuse(self) -> None:
        if self.refuses:
            raise KernelError("not now")


async def known(kernel: Counting) -> LinkCache:
    """Everything read once."""
    interfaces = LinkCache(kernel)
    assert await interfaces.read() is None
    kernel.read.clear()
    return interfaces


async def test_only_the_link_in_doubt_is_read_and_the_others_stay_the_same_objects() -> None:
    kernel = Counting()
    kernel.add_link("eth0", "172.26.0.1/24")
    interfaces = await known(kernel)
    before = interfaces.links
    kernel.add_link("cali1")
    interfaces.invalidate("cali1")
    assert await interfaces.read() == {"cali1"}
    assert kernel.read == ["cali1"]
    assert interfaces.links == kernel.link_table
    assert interfaces.links["eth0"] is before["eth0"]


async def test_a_link_that_is_as_it_was_is_no_news() -> None:
    kernel = Counting()
    kernel.add_link("eth0", "172.26.0.1/24")
    interfaces = await known(kernel)
    before = interfaces.links
    interfaces.invalidate("eth0")
    interfaces.invalidate("#9")  # an event of a link that has gone meanwhile
    assert await interfaces.read() == frozenset()
    assert interfaces.links is before


async def test_a_renamed_link_is_known_by_its_new_name_alone() -> None:
    kernel = Counting()
    kernel.add_link("eth0")
    interfaces = await known(kernel)
    kernel.rename_link("eth0", "lan0")
    interfaces.invalidate("lan0", kernel.link_table["lan0"].index)
    assert await interfaces.read() == {"eth0", "lan0"}
    assert interfaces.links == kernel.link_table


async def test_a_link_that_was_renamed_and_made_way_for_another_is_known_by_no_name() -> None:
    kernel = Counting()
    kernel.add_link("eth0")
    interfaces = await known(kernel)
    index = kernel.link_table["eth0"].index
    kernel.rename_link("eth0", "lan0")
    interfaces.invalidate("lan0", index)
    kernel.delete_link("lan0")
    interfaces.invalidate("lan0", index)
    kernel.add_link("lan0")
    interfaces.invalidate("lan0", kernel.link_table["lan0"].index)
    assert await interfaces.read() == {"eth0", "lan0"}
    assert interfaces.links == kernel.link_table


async def test_the_name_that_a_renamed_link_has_now_is_known_by_the_one_that_it_had() -> None:
    kernel = Counting()
    kernel.add_link("cali1")
    interfaces = await known(kernel)
    assert interfaces.now_named("cali1") is None
    kernel.rename_link("cali1", "elsewhere")
    interfaces.invalidate("elsewhere", kernel.link_table["elsewhere"].index)
    await interfaces.read()
    assert interfaces.now_named("cali1") == "elsewhere"
    kernel.delete_link("elsewhere")
    interfaces.invalidate("elsewhere")
    await interfaces.read()
    assert (interfaces.now_named("cali1"), interfaces.now_named("never")) == (None, None)


async def test_very_many_in_doubt_are_read_together() -> None:
    kernel = Counting()
    interfaces = await known(kernel)
    for number in range(MOST_ONE_BY_ONE + 1):
        kernel.add_link(f"cali{number}")
        interfaces.invalidate(f"cali{number}")
    assert await interfaces.read() is None
    assert kernel.read == ["all"]


@pytest.mark.parametrize("every", [False, True])
async def test_what_could_not_be_read_stays_in_doubt(*, every: bool) -> None:
    kernel = Counting()
    interfaces = await known(kernel)
    kernel.add_link("cali1")
    interfaces.invalidate("cali1")
    if every:
        interfaces.invalidate_all()
    kernel.refuses = True
    for _ in range(2):
        with pytest.raises(KernelError):
            await interfaces.read()
    kernel.refuses = False
    await interfaces.read()
    assert interfaces.links == kernel.link_table


NAMES = ("eth0", "lan0", "cali1", "cali2")
STEPS = st.one_of(
    st.tuples(st.just("add"), st.sampled_from(NAMES)),
    st.tuples(st.just("delete"), st.sampled_from(NAMES)),
    st.tuples(st.just("flip"), st.sampled_from(NAMES)),
    st.tuples(st.just("rename"), st.permutations(NAMES).map(lambda names: names[:2])),
    st.tuples(st.just("read"), st.none()),
)


def done(kernel: FakeKernel, what: str, argument: object) -> None:
    """A step of somebody else's, where it is possible."""
    if what == "rename":
        old, new = argument  # type: ignore[misc]
        if old in kernel.link_table and new not in kernel.link_table:
            kernel.rename_link(old, new)
        return
    name = str(argument)
    there = name in kernel.link_table
    if what == "add" and not there:
        kernel.add_link(name)
    elif what == "delete" and there:
        kernel.delete_link(name)
    elif what == "flip" and there:
        kernel.set_link(name, up=not kernel.link_table[name].up)


@settings(max_examples=400, deadline=None)
@given(st.lists(STEPS, max_size=30))
def test_after_any_history_the_links_are_those_that_there_are(history: list[tuple[str, object]]) -> None:
    async def play() -> None:
        kernel = FakeKernel()
        interfaces = LinkCache(kernel)
        events = kernel.changes().events
        for what, argument in history:
            if what == "read":
                await interfaces.read()
                continue
            done(kernel, what, argument)
            while not events.empty():
                event = events.get_nowait()
                if not interfaces.matches(event):
                    interfaces.invalidate(event.name, event.seen.index)
        await interfaces.read()
        assert interfaces.links == kernel.link_table

    asyncio.run(play())


async def events_taken() -> None:
    """Rounds of the loop, in which events are taken in."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_pod_that_comes_costs_no_reading_of_the_other_links() -> None:
    kernel = Counting()
    kernel.add_link("eth0", "172.26.0.1/24")
    async with running(Bench(kernel, EVERYTHING)) as bench:
        await bench.quiet()
        kernel.read.clear()
        kernel.add_link("cali9")
        await events_taken()
        await bench.passed()
        assert "cali9" in bench.seen[-1]
        kernel.delete_link("cali9")
        await bench.until(lambda: "cali9" not in bench.seen[-1])
        assert "all" not in kernel.read


async def test_a_link_of_no_known_pod_and_a_carrier_that_comes_lead_to_no_pass() -> None:
    kernel = Counting()
    kernel.add_link("eth0", "172.26.0.1/24")
    async with running(Bench(kernel, Dataplane())) as bench:
        await bench.quiet()
        before = bench.reconciler.passes
        kernel.set_link("eth0", up=True)  # as it was
        kernel.add_link("cali9")
        await events_taken()
        assert bench.reconciler.passes == before
        assert "cali9" not in bench.seen[-1]
        await bench.passed()
        assert "cali9" in bench.seen[-1]
