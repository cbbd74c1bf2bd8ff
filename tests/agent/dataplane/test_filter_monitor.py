"""The workload filter at work: what a pod costs, what is said when it is not in force, and what it has dropped."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

from agent.dataplane.filter_monitor import DropCounters, FilterMonitor
from agent.dataplane.kernel.dataplane_objects import Dataplane, FilterElement, FilterSet, Kind, WorkloadFilter
from agent.dataplane.kernel.filter_rules import REASONS
from agent.netlink.kernel_errors import KernelError
from tests.fakes.kernel import FakeKernel, Fault
from tests.scenes.dataplane.desired_states import EVERYTHING, FILTER, POD, SOURCE, key
from tests.scenes.dataplane.reconcilers import Bench, Lines, running

MORE = FilterElement(FilterSet.SOURCES_4, ("cali2", IPv4Address("10.1.0.8")))


def monitor(bench: Bench, kernel: FakeKernel) -> FilterMonitor:
    return FilterMonitor(kernel, bench.reconciler.filter_state, bench.log)


async def test_a_pod_is_one_element_before_its_route_and_no_reading(kernel: FakeKernel) -> None:
    kernel.add_link("cali2")
    async with running(Bench(kernel, EVERYTHING)) as bench:
        await bench.quiet()
        kernel.writes.clear()
        kernel.dumps.clear()
        route = POD.with_(key=key("10.1.0.8/32"), device="cali2")
        filled = WorkloadFilter(FILTER.workloads | {MORE}, FILTER.cluster)
        more = replace(EVERYTHING, routes={**EVERYTHING.routes, route.key: route}, workload_filter=filled)
        bench.desired = replace(bench.desired, dataplane=more)
        await bench.passed()
        assert kernel.writes == ["filter +1 -0", f"put {route}"]
        bench.desired = replace(bench.desired, dataplane=EVERYTHING)
        kernel.delete_link("cali2")
        await bench.until(lambda: kernel.filter_table == FILTER)
        assert [line for line in kernel.writes if line.startswith("filter")] == [
            "filter +1 -0",
            "filter +0 -1",
        ]
        assert kernel.dumps == []


async def test_an_address_whose_route_goes_only_now_is_let_go_a_moment_later(kernel: FakeKernel) -> None:
    async with running(Bench(kernel, EVERYTHING)) as bench:
        emptied = WorkloadFilter(frozenset(), FILTER.cluster)
        routes = {one: route for one, route in EVERYTHING.routes.items() if one != POD.key}
        bench.desired = replace(
            bench.desired, dataplane=replace(EVERYTHING, routes=routes, workload_filter=emptied)
        )
        await bench.passed()
        assert kernel.filter_table == FILTER
        await bench.until(lambda: kernel.filter_table == emptied)


async def test_a_flushed_filter_is_made_again_and_who_flushed_it_is_told(kernel: FakeKernel) -> None:
    async with running(Bench(kernel, EVERYTHING)) as bench:
        await bench.quiet()
        kernel.foreign_flush_nft()
        await bench.until(lambda: kernel.filter_table == FILTER)
        assert bench.log.of("kernel.drift")[-1]["by"] == "firewalld"


async def test_a_kernel_without_nftables_is_a_trouble_with_its_loss_and_its_cure(kernel: FakeKernel) -> None:
    kernel.faults.add(Fault.NO_NFTABLES)
    async with running(Bench(kernel, Dataplane(workload_filter=FILTER))) as bench:
        (trouble,) = monitor(bench, kernel).troubles()
        assert trouble.kind == "filter"
        assert str(trouble).startswith("table inet tortie: this kernel cannot hold the nftables table")
        assert "a pod can send from any address" in trouble.loss
        assert "load nf_tables" in trouble.cure
        assert monitor(bench, kernel).status()["state"] == "not in force"
        kernel.faults.clear()
        await bench.until(lambda: kernel.filter_table == FILTER)
        assert list(monitor(bench, kernel).troubles()) == []


async def test_that_it_waits_for_the_datastore_is_said_and_that_it_is_off_is_none(kernel: FakeKernel) -> None:
    bench = Bench(kernel, Dataplane(workload_filter=FILTER))
    bench.desired = replace(bench.desired, complete=False)
    async with running(bench):
        (trouble,) = monitor(bench, kernel).troubles()
        assert "before the datastore was read" in trouble.evidence
        bench.desired = replace(bench.desired, dataplane=Dataplane(), complete=True)
        await bench.passed()
        assert list(monitor(bench, kernel).troubles()) == []
        assert monitor(bench, kernel).status()["state"] == "off (workloads.filter)"


async def test_a_filter_in_force_that_takes_no_more_is_a_trouble_of_those_who_came(
    kernel: FakeKernel,
) -> None:
    async with running(Bench(kernel, EVERYTHING)) as bench:
        kernel.faults.add(Fault.NO_NFTABLES)
        filled = WorkloadFilter(frozenset({SOURCE, MORE}), FILTER.cluster)
        bench.desired = replace(bench.desired, dataplane=replace(EVERYTHING, workload_filter=filled))
        await bench.passed()
        (trouble,) = monitor(bench, kernel).troubles()
        assert (trouble.loss, trouble.cure) == ("workloads that came since then cannot send", "")
        assert monitor(bench, kernel).status()["state"] == "in force"


def test_counts_go_on_when_the_kernels_begin_anew() -> None:
    counters = DropCounters()
    assert counters.totals == dict.fromkeys(REASONS, 0)
    for found, total in (({"bgp": 3}, 3), ({"bgp": 5}, 5), ({"bgp": 1}, 6), ({}, 6), ({"bgp": 2}, 8)):
        counters.take(found)
        assert counters.totals["bgp"] == total


class Unreadable(FakeKernel):
    """A kernel that answers no question about the filter."""

    async def filter_drops(self) -> dict[str, int]:
        raise KernelError("a dump of type 2566: No buffer space available")


async def test_counters_that_cannot_be_read_are_told_once_and_keep_their_values(kernel: FakeKernel) -> None:
    log = Lines()
    kernel.drops = {"bgp": 3}
    bench = Bench(kernel, EVERYTHING)
    one = FilterMonitor(kernel, bench.reconciler.filter_state, log)
    await one.read()
    other = FilterMonitor(Unreadable(), bench.reconciler.filter_state, log)
    for _ in range(2):
        await other.read()
    assert (one.dropped["bgp"], other.dropped["bgp"]) == (3, 0)
    assert len(log.of("filter.counters_unread")) == 1
    assert Kind.FILTER not in kernel.dumps
