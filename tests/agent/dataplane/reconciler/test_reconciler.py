"""The reconciler over the fake kernel: what it writes, what it leaves, what it says."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest

from agent.dataplane.kernel.calico_names import TUNL0, VXLAN_DEVICE
from agent.dataplane.kernel.dataplane_objects import Dataplane, Kind
from agent.dataplane.reconciler import DesiredState
from agent.dataplane.trigger import PassTiming
from agent.netlink.kernel_errors import KernelError
from agent.netlink.objects import Tunnel, TunnelKind
from tests.fakes.kernel import FakeKernel, Fault
from tests.scenes.dataplane.desired_states import (
    EVERYTHING,
    FOREIGN,
    FORWARDING,
    IPIP,
    LEARNED,
    NAT,
    OWN_BLOCK,
    POD,
    REMOTE,
    SECOND,
    VTEP,
    VXLAN,
    key,
    routes,
)
from tests.scenes.dataplane.reconcilers import Bench, running


async def test_every_kind_is_created_in_order_and_removed_in_reverse(kernel: FakeKernel) -> None:
    async with running(Bench(kernel, EVERYTHING)) as bench:
        assert kernel.writes == [
            "make filter",
            f"put {VXLAN_DEVICE}",
            f"put neighbour {VTEP.address}",
            f"put fdb {FORWARDING.mac}",
            *(f"put {route}" for route in (LEARNED, OWN_BLOCK, POD, REMOTE)),
            "put masquerade",
        ]
        kernel.writes.clear()
        bench.desired = replace(bench.desired, dataplane=Dataplane())
        await bench.passed()
        kinds = [
            "put masquerade",
            *["remove"] * 4,
            "remove fdb",
            "remove neighbour",
            f"remove {VXLAN_DEVICE}",
            "remove filter",
        ]
        assert [line.startswith(kind) for line, kind in zip(kernel.writes, kinds, strict=True)] == [True] * 9
        assert kernel.route_table == {}
        assert kernel.nft_table is None


async def test_a_restart_over_a_kernel_as_desired_writes_nothing(kernel: FakeKernel) -> None:
    async with running(Bench(kernel, EVERYTHING)):
        pass
    kernel.writes.clear()
    async with running(Bench(kernel, EVERYTHING)) as bench:
        await bench.passed()
        assert kernel.writes == []
        assert bench.reconciler.installed == EVERYTHING.routes


async def test_stopping_leaves_everything_standing(kernel: FakeKernel) -> None:
    async with running(Bench(kernel, EVERYTHING)):
        pass
    assert kernel.route_table == EVERYTHING.routes
    assert kernel.subscriptions[0].closed


async def test_nothing_is_replaced_or_deleted_before_the_facts_are_complete(kernel: FakeKernel) -> None:
    old = LEARNED.with_(gateway=IPv4Address("172.26.0.5"))
    stray = OWN_BLOCK.with_(key=key("10.7.0.0/26"))
    kernel.route_table |= {old.key: old, stray.key: stray}
    kernel.nft_table = NAT
    bench = Bench(kernel, routes(LEARNED, OWN_BLOCK))
    bench.desired = replace(bench.desired, complete=False)
    async with running(bench):
        assert kernel.route_table == {old.key: old, stray.key: stray, OWN_BLOCK.key: OWN_BLOCK}
        assert kernel.nft_table == NAT
        bench.desired = replace(bench.desired, complete=True)
        await bench.passed()
        assert kernel.route_table == {LEARNED.key: LEARNED, OWN_BLOCK.key: OWN_BLOCK}
        assert kernel.nft_table is None


async def test_what_bgp_taught_stays_until_bgp_has_converged(kernel: FakeKernel) -> None:
    blackhole = OWN_BLOCK.with_(key=key("10.7.0.0/26"))
    kernel.route_table |= {LEARNED.key: LEARNED, blackhole.key: blackhole}
    bench = Bench(kernel)
    bench.desired = DesiredState(Dataplane(), complete=True, bgp_complete=False)
    async with running(bench):
        assert kernel.route_table == {LEARNED.key: LEARNED}
        bench.desired = replace(bench.desired, bgp_complete=True)
        await bench.passed()
        assert kernel.route_table == {}


async def test_a_foreign_route_in_our_place_is_left_and_reported_and_its_end_makes_room(
    kernel: FakeKernel,
) -> None:
    kernel.route_table[FOREIGN.key] = FOREIGN
    async with running(Bench(kernel, routes(LEARNED, OWN_BLOCK))) as bench:
        assert kernel.route_table == {FOREIGN.key: FOREIGN, OWN_BLOCK.key: OWN_BLOCK}
        assert "zebra" in bench.reconciler.report().conflicts["10.1.1.0/26"]
        with pytest.raises(KernelError, match="zebra"):
            await bench.reconciler.wait_for_routes([LEARNED.key], SECOND)
        kernel.foreign_delete(FOREIGN.key)
        await bench.until(lambda: kernel.route_table.get(LEARNED.key) == LEARNED)
        assert bench.reconciler.report().conflicts == {}


async def test_a_foreign_route_that_came_unheard_is_not_overwritten(kernel: FakeKernel) -> None:
    async with running(Bench(kernel)) as bench:
        kernel.route_table[FOREIGN.key] = FOREIGN
        bench.desired = replace(bench.desired, dataplane=routes(LEARNED))
        await bench.until(lambda: bool(bench.reconciler.report().conflicts))
        assert kernel.route_table == {FOREIGN.key: FOREIGN}


@pytest.mark.parametrize("alter", ["delete", "change", "add"])
async def test_drift_of_a_route_is_repaired_when_its_event_comes(kernel: FakeKernel, alter: str) -> None:
    async with running(Bench(kernel, routes(LEARNED, POD))) as bench:
        stray = OWN_BLOCK.with_(key=key("10.7.0.0/26"))
        match alter:
            case "delete":
                kernel.foreign_delete(LEARNED.key)
            case "change":
                kernel.foreign_put(LEARNED.with_(gateway=IPv4Address("172.26.0.66")))
            case "add":
                kernel.foreign_put(stray)
        await bench.until(lambda: kernel.route_table == {LEARNED.key: LEARNED, POD.key: POD})
        assert bench.reconciler.report().drift["route"] == 1
        (line,) = bench.log.of("kernel.drift")
        assert line["was"] == ("nothing" if alter == "add" else str(LEARNED))


async def test_what_others_do_with_their_own_routes_costs_no_reading(kernel: FakeKernel) -> None:
    async with running(Bench(kernel, routes(LEARNED))) as bench:
        kernel.dumps.clear()
        kernel.foreign_put(FOREIGN.with_(key=key("10.200.0.0/24")))
        kernel.foreign_put(POD.with_(device="eth0"))
        kernel.add_link("eth9")
        await bench.until(lambda: "eth9" in bench.seen[-1])
        assert kernel.dumps == []


async def test_a_flushed_nft_table_is_put_back(kernel: FakeKernel) -> None:
    async with running(Bench(kernel, replace(routes(), masquerade=NAT))) as bench:
        kernel.foreign_flush_nft()
        await bench.until(lambda: kernel.nft_table == NAT)
        (line,) = bench.log.of("kernel.drift")
        assert line["by"] == "firewalld"


async def test_lost_notifications_lead_to_reading_everything(kernel: FakeKernel) -> None:
    async with running(Bench(kernel, routes(LEARNED))) as bench:
        kernel.dumps.clear()
        del kernel.route_table[LEARNED.key]
        kernel.overrun()
        await bench.until(lambda: kernel.route_table == {LEARNED.key: LEARNED})
        assert set(kernel.dumps) == set(Kind)
        assert bench.reconciler.report().overruns == 1


async def test_a_storm_of_losses_reads_everything_only_so_often(kernel: FakeKernel) -> None:
    timing = PassTiming(share=1e6, grace_seconds=0.0, overrun_seconds=0.2)
    async with running(Bench(kernel, routes(LEARNED), timing=timing)) as bench:
        kernel.dumps.clear()
        for _ in range(20):
            kernel.overrun()
            await bench.passed()
        assert kernel.dumps.count(Kind.ROUTE) <= 1
        del kernel.route_table[LEARNED.key]
        await bench.until(lambda: kernel.route_table == {LEARNED.key: LEARNED})


async def test_a_route_waits_for_its_device_and_comes_with_it(kernel: FakeKernel) -> None:
    later = POD.with_(device="cali2")
    async with running(Bench(kernel, routes(later, OWN_BLOCK))) as bench:
        assert kernel.writes == [f"put {OWN_BLOCK}"]
        assert bench.reconciler.report().waiting == {"10.1.0.7/32": "cali2 is not there"}
        waiting = asyncio.create_task(bench.reconciler.wait_for_routes([later.key], SECOND))
        kernel.add_link("cali2", up=False)
        await bench.until(lambda: bench.reconciler.report().waiting == {"10.1.0.7/32": "cali2 is down"})
        kernel.set_link("cali2", up=True)
        await waiting
        assert kernel.route_table[later.key] == later


async def test_routes_of_a_device_that_went_down_come_back_with_it_without_a_dump(kernel: FakeKernel) -> None:
    async with running(Bench(kernel, routes(POD, LEARNED))) as bench:
        kernel.dumps.clear()
        kernel.set_link("cali1", up=False)
        await bench.until(lambda: POD.key not in bench.reconciler.installed)
        kernel.set_link("cali1", up=True)
        await bench.until(lambda: kernel.route_table.get(POD.key) == POD)
        assert kernel.dumps == []


async def test_a_deleted_tunnel_comes_back_with_all_that_stood_on_it(kernel: FakeKernel) -> None:
    async with running(Bench(kernel, EVERYTHING)) as bench:
        kernel.delete_link(VXLAN_DEVICE)
        await bench.until(lambda: kernel.route_table.get(REMOTE.key) == REMOTE)
        assert kernel.tunnel_table == {VXLAN_DEVICE: VXLAN}
        assert list(kernel.neighbour_table.values()) == [VTEP]
        assert list(kernel.fdb_table.values()) == [FORWARDING]


async def test_a_refused_route_stops_no_other_and_is_tried_again(kernel: FakeKernel) -> None:
    kernel.refused[LEARNED.key] = "Network is unreachable"
    async with running(Bench(kernel, routes(LEARNED, POD))) as bench:
        assert kernel.route_table == {POD.key: POD}
        assert bench.reconciler.report().refused == {"route 10.1.1.0/26": "Network is unreachable"}
        with pytest.raises(KernelError, match="unreachable"):
            await bench.reconciler.wait_for_routes([LEARNED.key], 4 * SECOND)
        kernel.refused.clear()
        await bench.until(lambda: LEARNED.key in kernel.route_table)
        assert bench.reconciler.report().refused == {}


async def test_a_refusal_of_what_is_no_longer_desired_is_forgotten(kernel: FakeKernel) -> None:
    kernel.refused[LEARNED.key] = "Network is unreachable"
    async with running(Bench(kernel, routes(LEARNED))) as bench:
        assert bench.reconciler.report().refused
        bench.desired = replace(bench.desired, dataplane=Dataplane())
        await bench.passed()
        assert bench.reconciler.report().refused == {}


@pytest.mark.parametrize("fault", [Fault.ROUTE_BATCH_FAILS, Fault.DUMP_INTERRUPTED])
async def test_an_error_leads_to_reading_everything_and_doing_it_again(
    kernel: FakeKernel, fault: Fault
) -> None:
    kernel.faults.add(fault)
    async with running(Bench(kernel, routes(LEARNED))) as bench:
        assert kernel.route_table == {LEARNED.key: LEARNED}
        assert len(bench.log.of("kernel.pass_failed")) == 1
        assert bench.reconciler.report().trouble is None


async def test_a_pass_that_failed_is_tried_again_though_nobody_rings(kernel: FakeKernel) -> None:
    async with running(Bench(kernel, routes(LEARNED))) as bench:
        kernel.faults.add(Fault.DUMP_INTERRUPTED)
        del kernel.route_table[LEARNED.key]
        kernel.overrun()
        await bench.until(lambda: LEARNED.key in kernel.route_table)
        assert len(bench.log.of("kernel.pass_failed")) == 1


async def test_what_this_kernel_lacks_is_reported_and_the_rest_is_done(kernel: FakeKernel) -> None:
    kernel.faults |= {Fault.NO_IPIP, Fault.NO_NFTABLES}
    through = LEARNED.with_(device=TUNL0, onlink=True)
    desired = replace(routes(through, POD), tunnels={TUNL0: IPIP}, masquerade=NAT)
    async with running(Bench(kernel, desired)) as bench:
        report = bench.reconciler.report()
        assert report.not_in_force == {
            "tunl0": "this kernel has no ipip",
            "masquerade": "this kernel has no nftables ip family",
        }
        assert report.waiting == {"10.1.1.0/26": "tunl0 is not there"}
        assert kernel.route_table == {POD.key: POD}


async def test_a_refused_tunnel_is_tried_again_though_nothing_else_happens(kernel: FakeKernel) -> None:
    kernel.faults.add(Fault.NO_IPIP)
    async with running(Bench(kernel, replace(routes(), tunnels={TUNL0: IPIP}))) as bench:
        for _ in range(2):
            await bench.passed()
            assert bench.reconciler.report().refused == {"tunnel tunl0": "this kernel has no ipip"}
        kernel.faults.clear()  # the module was loaded
        await bench.until(lambda: kernel.tunnel_table == {TUNL0: IPIP})
        report = bench.reconciler.report()
        assert (report.refused, report.not_in_force) == ({}, {})


async def test_a_tunnel_made_anew_says_which_attribute_was_why(kernel: FakeKernel) -> None:
    async with running(Bench(kernel, replace(routes(), tunnels={VXLAN_DEVICE: VXLAN}))) as bench:
        bench.desired = replace(
            bench.desired, dataplane=replace(routes(), tunnels={VXLAN_DEVICE: replace(VXLAN, vni=7)})
        )
        await bench.passed()
        assert bench.log.of("tunnel.recreated") == [
            {"device": VXLAN_DEVICE, "why": "vni is 4096, should be 7"}
        ]


async def test_tunl0_as_the_module_made_it_is_left_alone_where_it_is_not_desired(kernel: FakeKernel) -> None:
    kernel.tunnel_table[TUNL0] = Tunnel(TUNL0, TunnelKind.IPIP, 1480, None, up=False)
    async with running(Bench(kernel)):
        assert kernel.writes == []


async def test_many_rings_are_one_pass(kernel: FakeKernel) -> None:
    async with running(Bench(kernel)) as bench:
        passes = len(bench.seen)
        for _ in range(1000):
            bench.reconciler.trigger()
        await bench.passed()
        assert len(bench.seen) == passes + 1


async def test_waiting_for_what_is_not_desired_ends_with_a_reason(kernel: FakeKernel) -> None:
    async with running(Bench(kernel)) as bench:
        with pytest.raises(TimeoutError, match=r"10\.1\.0\.7/32 is not desired"):
            await bench.reconciler.wait_for_routes([POD.key], 0.05)


async def test_without_notifications_it_does_not_run_at_all(kernel: FakeKernel) -> None:
    kernel.faults.add(Fault.CANNOT_LISTEN)
    with pytest.raises(KernelError, match="Too many open files"):
        await Bench(kernel).reconciler.run()


@pytest.mark.parametrize("steps", range(1, 40, 3))
async def test_cancelling_at_any_point_leaves_a_kernel_that_the_next_run_finishes(
    kernel: FakeKernel, steps: int
) -> None:
    task = asyncio.create_task(Bench(kernel, EVERYTHING).reconciler.run())
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    result: list[Any] = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(result[0], asyncio.CancelledError)
    async with running(Bench(kernel, EVERYTHING)):
        assert kernel.route_table == EVERYTHING.routes
        assert kernel.nft_table == NAT
