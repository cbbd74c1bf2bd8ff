"""What others do between the reconciler's reading and its writing, one round of the loop apart."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address

from agent.dataplane.kernel.dataplane_objects import Dataplane
from agent.dataplane.kernel.protocol import Refusal
from agent.dataplane.reconciler import DesiredState
from agent.netlink.objects import Link, Route, Sysctl
from tests.fakes.kernel import FakeKernel
from tests.scenes.dataplane.desired_states import FOREIGN, LEARNED, OWN_BLOCK, routes
from tests.scenes.dataplane.reconcilers import Bench, running

MOVED = LEARNED.with_(gateway=None, device="eth0", onlink=False)


class Changing(Bench):
    """The desired state is another one at each pass; the last stays."""

    def __init__(self, kernel: FakeKernel, *desired: Dataplane) -> None:
        super().__init__(kernel)
        self.coming: Iterator[Dataplane] = iter(desired)

    async def _compute_desired(self, links: Mapping[str, Link]) -> DesiredState:
        self.desired = replace(self.desired, dataplane=next(self.coming, self.desired.dataplane))
        return self.desired


class Flapping(FakeKernel):
    """A link goes down and up just before the first batch of routes is written."""

    async def put_routes(self, routes: Sequence[Route], *, replace: bool = True) -> tuple[Refusal, ...]:
        if not any(line.startswith("put") for line in self.writes):
            for up in (False, True):
                self.set_link("eth0", up=up)
        return await super().put_routes(routes, replace=replace)


async def test_a_route_put_after_a_flap_that_was_not_yet_heard_of_goes_when_it_is_not_desired_any_more() -> (
    None
):
    kernel = Flapping()
    kernel.add_link("eth0", "172.26.0.1/24")
    async with running(Changing(kernel, routes(LEARNED), Dataplane())) as bench:
        for _ in range(3):
            await bench.passed()
        assert kernel.route_table == {}


async def test_a_refused_put_does_not_hold_back_the_removal_of_what_stands_there(kernel: FakeKernel) -> None:
    kernel.foreign_put(LEARNED)
    kernel.refused[LEARNED.key] = "Invalid argument"
    async with running(Changing(kernel, routes(MOVED), Dataplane())) as bench:
        await bench.passed()
        assert kernel.route_table == {}


async def test_what_appeared_unseen_where_ours_was_to_be_added_is_dealt_with_in_the_next_pass() -> None:
    kernel = FakeKernel()
    kernel.add_link("eth0", "172.26.0.1/24")
    async with running(Changing(kernel, Dataplane(), routes(LEARNED))) as bench:
        kernel.route_table[LEARNED.key] = OWN_BLOCK.with_(key=LEARNED.key)
        for _ in range(2):
            await bench.passed()
        assert kernel.route_table == {LEARNED.key: LEARNED}


async def test_a_foreign_route_that_came_unseen_and_went_makes_room_at_once(kernel: FakeKernel) -> None:
    async with running(Changing(kernel, Dataplane(), routes(LEARNED))) as bench:
        kernel.route_table[LEARNED.key] = FOREIGN
        await bench.passed()
        kernel.foreign_delete(LEARNED.key)
        for _ in range(2):
            await bench.passed()
        assert kernel.route_table == {LEARNED.key: LEARNED}


async def test_a_foreign_route_that_went_before_its_place_was_desired_is_not_in_the_way(
    kernel: FakeKernel,
) -> None:
    kernel.foreign_put(FOREIGN)
    async with running(Bench(kernel)) as bench:
        kernel.foreign_delete(FOREIGN.key)
        await bench.passed()
        bench.desired = replace(bench.desired, dataplane=routes(LEARNED))
        await bench.passed()
        assert kernel.route_table == {LEARNED.key: LEARNED}


async def test_a_foreign_route_that_only_changed_is_still_in_the_way(kernel: FakeKernel) -> None:
    kernel.foreign_put(FOREIGN)
    changed = FOREIGN.with_(gateway=IPv4Address("172.26.0.8"))
    async with running(Bench(kernel)) as bench:
        kernel.foreign_put(changed)
        await bench.passed()
        bench.desired = replace(bench.desired, dataplane=routes(LEARNED))
        for _ in range(2):
            await bench.passed()
        assert kernel.route_table == {FOREIGN.key: changed}
        assert bench.reconciler.report().conflicts


async def test_what_was_refused_for_want_of_its_device_is_tried_at_once_when_the_device_is_there(
    kernel: FakeKernel,
) -> None:
    dangling = LEARNED.with_(device="eth7")
    kernel.add_link("eth7", "172.26.0.7/24")
    async with running(Changing(kernel, Dataplane(), routes(dangling))) as bench:
        del kernel.link_table["eth7"]  # no event of it comes before the write
        await bench.passed()
        assert kernel.route_table == {}
        kernel.add_link("eth7", "172.26.0.7/24")
        for _ in range(2):
            await bench.passed()
        assert kernel.route_table == {dangling.key: dangling}


class Counting(FakeKernel):
    """Notes how many sysctls each reading asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []
        self.was_asked = asyncio.Event()
        """Somebody asked."""

    async def sysctls(self, names: Sequence[str], *, only: bool = False) -> Mapping[str, Sysctl]:
        self.asked.append(len(names))
        self.was_asked.set()
        return await super().sysctls(names, only=only)


async def test_a_sysctl_that_somebody_sets_costs_the_reading_of_that_one_and_is_drift() -> None:
    kernel = Counting()
    for number in range(40):
        kernel.add_link(f"cali{number}")
    desired = {
        name: Sysctl(name, "1") for name in (f"net/ipv4/conf/cali{number}/proxy_arp" for number in range(40))
    }
    async with running(Bench(kernel, Dataplane(sysctls=desired))) as bench:
        await bench.quiet()
        kernel.asked.clear()
        changed = "net/ipv4/conf/cali7/proxy_arp"
        kernel.foreign_sysctl(changed, "0")
        await bench.until(lambda: kernel.sysctl_table[changed] == "1")
        await bench.quiet()
        assert set(kernel.asked) == {1}
        assert bench.reconciler.report().drift["sysctl"] == 1


async def test_the_echo_of_a_sysctl_that_we_set_leads_to_no_pass() -> None:
    kernel = Counting()
    kernel.add_link("cali1")
    name = "net/ipv4/conf/cali1/proxy_arp"
    async with running(Bench(kernel, Dataplane(sysctls={name: Sysctl(name, "1")}))) as bench:
        await bench.quiet()
        assert kernel.sysctl_table[name] == "1"
        before = bench.reconciler.passes
        kernel.was_asked.clear()
        kernel.foreign_sysctl(name, "1")  # as it is
        async with asyncio.timeout(5):
            await kernel.was_asked.wait()
        for _ in range(10):
            await asyncio.sleep(0)
        assert bench.reconciler.passes == before
