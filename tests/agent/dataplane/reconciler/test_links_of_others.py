"""What other plugins do to their containers' links is taken in together, and at once where this node lives by it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from ipaddress import ip_address

import pytest

from agent.dataplane.kernel.dataplane_objects import Dataplane
from agent.dataplane.reconciler import DesiredState
from agent.dataplane.trigger import PassTiming
from tests.fakes.kernel import FakeKernel
from tests.scenes.dataplane.reconcilers import IMPATIENT, Bench, running

NEVER, SOON = 3600.0, 0.02
GATEWAY = "10.77.0.1/32"
"""As `ptp` gives one and the same to the host's side of each container."""


def bench_of(kernel: FakeKernel, later_seconds: float) -> Bench:
    kernel.add_link("eth0", "172.26.0.11/20")
    timing = PassTiming(IMPATIENT.share, grace_seconds=0.0, later_seconds=later_seconds)
    return Bench(kernel, Dataplane(), timing=timing)


@pytest.fixture
def kernel() -> FakeKernel:
    return FakeKernel()


async def test_a_veth_of_another_plugin_is_nothing_to_the_next_pass(kernel: FakeKernel) -> None:
    async with running(bench := bench_of(kernel, NEVER)):
        await bench.quiet()
        passes, links = bench.reconciler.passes, bench.seen[-1]
        kernel.add_link("veth1", GATEWAY)
        kernel.add_link("veth2")
        kernel.delete_link("veth2")
        await bench.passed()
        assert bench.seen[-1] is links
        assert bench.reconciler.passes == passes + 1, "the one that was asked for"


async def test_one_that_stays_is_known_soon(kernel: FakeKernel) -> None:
    async with running(bench := bench_of(kernel, SOON)):
        kernel.add_link("veth1", GATEWAY)
        await bench.until(lambda: "veth1" in bench.seen[-1])
        assert bench.seen[-1]["veth1"].addresses == ((ip_address("10.77.0.1"), 32),)
        kernel.delete_link("veth1")
        await bench.until(lambda: "veth1" not in bench.seen[-1])


async def a_subnet(kernel: FakeKernel, bench: Bench) -> str:
    kernel.add_link("veth1", "10.5.0.1/24")
    return "veth1"


async def a_way_leads_there(kernel: FakeKernel, bench: Bench) -> str:
    bench.reconciler.next_hops.track([ip_address("fe80::1%veth1")])
    kernel.add_link("veth1")
    return "veth1"


async def the_node_has_no_address_yet(kernel: FakeKernel, bench: Bench) -> str:
    bench.desired = DesiredState(Dataplane(), complete=False, bgp_complete=False)
    await bench.passed()
    kernel.add_link("veth1")
    return "veth1"


async def a_known_link_has_another_name(kernel: FakeKernel, bench: Bench) -> str:
    kernel.rename_link("eth0", "uplink")
    return "uplink"


@pytest.mark.parametrize(
    "change", [a_subnet, a_way_leads_there, the_node_has_no_address_yet, a_known_link_has_another_name]
)
async def test_a_veth_that_this_node_may_live_by_is_known_with_the_next_pass(
    kernel: FakeKernel, change: Callable[[FakeKernel, Bench], Awaitable[str]]
) -> None:
    async with running(bench := bench_of(kernel, NEVER)):
        await bench.quiet()
        name = await change(kernel, bench)
        await bench.until(lambda: name in bench.seen[-1])


async def test_the_end_of_a_veth_with_a_subnet_is_known_with_the_next_pass(kernel: FakeKernel) -> None:
    bench = bench_of(kernel, NEVER)
    kernel.add_link("veth1", "10.5.0.1/24")
    async with running(bench):
        kernel.delete_link("veth1")
        await bench.until(lambda: "veth1" not in bench.seen[-1])


async def test_what_waits_is_taken_in_with_what_cannot(kernel: FakeKernel) -> None:
    async with running(bench := bench_of(kernel, NEVER)):
        await bench.quiet()
        kernel.add_link("veth1")
        kernel.add_link("veth2", GATEWAY)
        kernel.add_address("veth1", "10.5.0.1/24")
        await bench.until(lambda: bool(bench.seen[-1].get("veth1") and bench.seen[-1]["veth1"].addresses))
        assert "veth2" not in bench.seen[-1]
