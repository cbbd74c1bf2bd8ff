"""What the reconciler does besides routes: connections, sysctls, and holding a mass removal back."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from agent.dataplane.kernel.calico_names import TUNL0, VXLAN_DEVICE
from agent.dataplane.kernel.dataplane_objects import Dataplane, ForwardChain, Kind
from agent.dataplane.mass_delete_guard import MassDeleteGuard
from agent.netlink.objects import Route, RouteKey, Sysctl, Tunnel, TunnelKind
from tests.fakes.kernel import FakeKernel, Fault
from tests.scenes.dataplane.desired_states import EVERYTHING, LEARNED, OWN_BLOCK, POD, key, routes
from tests.scenes.dataplane.reconcilers import IMPATIENT, Bench, running

POD_ADDRESS, OTHER = IPv4Address("10.1.0.7"), IPv4Address("10.1.0.8")


@pytest.fixture
def tracking(kernel: FakeKernel) -> FakeKernel:
    kernel.add_link("cali2")
    kernel.connections = [(POD_ADDRESS, OTHER), (OTHER, POD_ADDRESS), (OTHER, OTHER)]
    return kernel


async def test_connections_of_a_pod_that_left_are_forgotten(tracking: FakeKernel) -> None:
    async with running(Bench(tracking, routes(POD, LEARNED))) as bench:
        assert len(tracking.connections) == 3
        bench.desired = replace(bench.desired, dataplane=routes(LEARNED))
        await looked(tracking)
        assert tracking.connections == [(OTHER, OTHER)]


async def looked(tracking: FakeKernel) -> None:
    """Until somebody wanted connections forgotten."""
    async with asyncio.timeout(5):
        await tracking.looked_for_connections.wait()
        await asyncio.sleep(0)


async def test_nobody_who_waits_for_a_removal_waits_for_connections(tracking: FakeKernel) -> None:
    async with running(Bench(tracking, routes(POD))) as bench:
        bench.desired = replace(bench.desired, dataplane=Dataplane())
        await bench.passed()
        assert POD.key not in tracking.route_table
        assert not tracking.looked_for_connections.is_set()
        await looked(tracking)
        assert tracking.connections == [(OTHER, OTHER)]


async def test_departures_of_one_moment_are_one_look_at_the_table(tracking: FakeKernel) -> None:
    neighbour = POD.with_(key=key("10.1.0.9/32"))
    async with running(Bench(tracking, routes(POD, neighbour))) as bench:
        bench.desired = replace(bench.desired, dataplane=routes(neighbour))
        await bench.passed()
        bench.desired = replace(bench.desired, dataplane=Dataplane())
        await bench.passed()
        await looked(tracking)
        said = [line for line in tracking.writes if line.startswith("delete connections")]
        assert said == ["delete connections of 10.1.0.7, 10.1.0.9"]


async def test_an_address_that_is_given_again_at_once_has_lost_its_old_connections_first(
    tracking: FakeKernel,
) -> None:
    async with running(Bench(tracking, routes(POD))) as bench:
        bench.desired = replace(bench.desired, dataplane=Dataplane())
        await bench.passed()
        bench.desired = replace(bench.desired, dataplane=routes(POD.with_(device="cali2")))
        await bench.passed()
        forgotten = tracking.writes.index("delete connections of 10.1.0.7")
        assert tracking.writes[forgotten + 1 :] == ["put 10.1.0.7 dev cali2 scope link"]
        assert tracking.connections == [(OTHER, OTHER)]


async def test_connections_of_a_pod_that_moved_are_forgotten(tracking: FakeKernel) -> None:
    async with running(Bench(tracking, routes(POD))) as bench:
        bench.desired = replace(bench.desired, dataplane=routes(POD.with_(device="cali2")))
        await bench.passed()
        assert tracking.connections == [(OTHER, OTHER)]


async def test_connections_of_a_pod_whose_link_went_first_are_forgotten_when_it_is_no_longer_desired(
    tracking: FakeKernel,
) -> None:
    async with running(Bench(tracking, routes(POD))) as bench:
        tracking.delete_link("cali1")
        await bench.until(lambda: bool(bench.reconciler.report().waiting))
        assert len(tracking.connections) == 3
        bench.desired = replace(bench.desired, dataplane=Dataplane())
        await bench.passed()
        await looked(tracking)
        assert tracking.connections == [(OTHER, OTHER)]


async def test_connections_are_forgotten_too_when_the_loss_was_not_heard_of(tracking: FakeKernel) -> None:
    async with running(Bench(tracking, routes(POD))) as bench:
        del tracking.route_table[POD.key]
        del tracking.link_table["cali1"]
        bench.desired = replace(bench.desired, dataplane=Dataplane())
        tracking.overrun()
        await looked(tracking)
        assert tracking.connections == [(OTHER, OTHER)]


async def test_a_link_that_flaps_keeps_its_connections(tracking: FakeKernel) -> None:
    async with running(Bench(tracking, routes(POD))) as bench:
        tracking.set_link("cali1", up=False)
        await bench.until(lambda: bool(bench.reconciler.report().waiting))
        tracking.set_link("cali1", up=True)
        await bench.until(lambda: tracking.route_table.get(POD.key) == POD)
        await bench.passed()
        assert len(tracking.connections) == 3
        assert not tracking.looked_for_connections.is_set()


async def test_routes_of_blocks_do_not_touch_connections(tracking: FakeKernel) -> None:
    tracking.connections = [(IPv4Address("10.1.0.0"), OTHER)]
    async with running(Bench(tracking, routes(OWN_BLOCK, LEARNED))) as bench:
        bench.desired = replace(bench.desired, dataplane=Dataplane())
        await bench.passed()
        assert len(tracking.connections) == 1


async def test_without_connection_tracking_the_rest_goes_on(tracking: FakeKernel) -> None:
    tracking.faults.add(Fault.NO_CONNTRACK)
    async with running(Bench(tracking, routes(POD))) as bench:
        bench.desired = replace(bench.desired, dataplane=Dataplane())
        await bench.passed()
        await looked(tracking)
        assert tracking.route_table == {}
        assert "ctnetlink" in bench.reconciler.report().not_in_force["deleting connections"]


PROXY_ARP = Sysctl("net/ipv4/conf/cali1/proxy_arp", "1")
LATER = Sysctl("net/ipv4/conf/cali2/proxy_arp", "1")


async def test_sysctls_are_set_where_they_exist_and_set_again_when_somebody_changes_them(
    kernel: FakeKernel,
) -> None:
    async with running(
        Bench(kernel, Dataplane(sysctls={one.name: one for one in (PROXY_ARP, LATER)}))
    ) as bench:
        assert kernel.writes == [f"set {PROXY_ARP.name}"]
        kernel.foreign_sysctl(PROXY_ARP.name, "0")
        await bench.until(lambda: kernel.sysctl_table[PROXY_ARP.name] == "1")
        assert bench.reconciler.report().drift["sysctl"] == 1
        kernel.add_link("cali2")
        await bench.until(lambda: kernel.sysctl_table[LATER.name] == "1")
        kernel.delete_link("cali2")
        kernel.add_link("cali2")
        await bench.until(lambda: kernel.sysctl_table[LATER.name] == "1")
        assert bench.reconciler.report().refused == {}


def some(count: int) -> dict[RouteKey, Route]:
    keys = [key(f"20.0.{i}.0/26") for i in range(count)]
    return {each: LEARNED.with_(key=each) for each in keys}


async def test_a_mass_removal_waits_for_its_time_and_a_second_reading(kernel: FakeKernel) -> None:
    kernel.route_table |= some(100)
    async with running(Bench(kernel, guard=MassDeleteGuard(free=10, hold_seconds=0.3))) as bench:
        for _ in range(3):
            await bench.passed()
        assert len(kernel.route_table) == 100
        assert "100 of 100" in bench.reconciler.report().held["route"]
        kernel.dumps.clear()
        await bench.until(lambda: not kernel.route_table)
        assert Kind.ROUTE in kernel.dumps
        assert bench.reconciler.report().held == {}
        assert len(bench.log.of("removal.held")) == 1


async def test_what_peers_withdraw_never_waits_and_the_rest_of_a_mass_removal_does(
    kernel: FakeKernel,
) -> None:
    many = some(100)
    kernel.route_table |= many
    still_taught = set(list(many)[:40])
    bench = Bench(kernel, guard=MassDeleteGuard(free=10, share=0.3))
    bench.desired = replace(bench.desired, learned=still_taught)
    async with running(bench):
        await bench.passed()
        assert kernel.route_table.keys() == still_taught
        assert "40 of 100" in bench.reconciler.report().held["route"]


async def test_a_mass_removal_that_was_a_mistake_never_happens(kernel: FakeKernel) -> None:
    many = some(100)
    async with running(
        Bench(kernel, Dataplane(routes=many), guard=MassDeleteGuard(free=10, hold_seconds=0.1))
    ) as bench:
        bench.desired = replace(bench.desired, dataplane=Dataplane())
        await bench.passed()
        bench.desired = replace(bench.desired, dataplane=Dataplane(routes=dict(list(many.items())[:60])))
        await bench.passed()
        assert len(kernel.route_table) == 60
        assert bench.reconciler.report().held == {}


async def test_a_tunnel_stands_on_for_a_while_because_others_still_send_through_it(
    kernel: FakeKernel,
) -> None:
    timing = replace(IMPATIENT, grace_seconds=0.2)
    async with running(Bench(kernel, EVERYTHING, timing=timing)) as bench:
        bench.desired = replace(bench.desired, dataplane=Dataplane())
        await bench.passed()
        assert list(kernel.tunnel_table) == [VXLAN_DEVICE]
        assert kernel.route_table == {}
        await bench.until(lambda: not kernel.tunnel_table)


async def test_tunl0_taken_down_is_no_drift(kernel: FakeKernel) -> None:
    tunl0 = Tunnel(TUNL0, TunnelKind.IPIP, 1480, IPv4Address("10.1.0.1"))
    async with running(Bench(kernel, Dataplane(tunnels={TUNL0: tunl0}))) as bench:
        bench.desired = replace(bench.desired, dataplane=Dataplane())
        await bench.until(lambda: not kernel.tunnel_table[TUNL0].up)
        await bench.passed()
        assert bench.reconciler.report().drift["tunnel"] == 0


DOCKER = ForwardChain("ip", "filter", "FORWARD", drops=True)
HARMLESS = ForwardChain("inet", "mine", "forward", drops=False)


async def test_a_forward_chain_that_drops_is_opened_to_pods_and_again_when_it_was_made_anew(
    kernel: FakeKernel,
) -> None:
    kernel.foreign_forward(HARMLESS)
    async with running(Bench(kernel, Dataplane(open_forward=True))) as bench:
        for _ in range(2):
            kernel.foreign_forward(DOCKER)
            await bench.until(lambda: kernel.forward_table[DOCKER.key].opened)
        assert kernel.writes == ["open ip filter FORWARD"] * 2
        assert bench.reconciler.report().drift["forward"] == 1
        assert bench.log.of("kernel.drift")[0]["by"] == "dockerd"
        kernel.foreign_forward(replace(DOCKER, drops=False, opened=True))
        await bench.until(lambda: not kernel.forward_table[DOCKER.key].opened)


async def test_without_the_setting_others_chains_are_left_and_ours_are_taken_back(kernel: FakeKernel) -> None:
    kernel.foreign_forward(DOCKER)
    kernel.foreign_forward(replace(HARMLESS, drops=True, opened=True))
    async with running(Bench(kernel, Dataplane())):
        assert kernel.writes == ["close inet mine forward"]


async def test_routes_are_written_in_the_order_in_which_they_changed(kernel: FakeKernel) -> None:
    async with running(Bench(kernel, routes())) as bench:
        changed = [LEARNED.with_(key=key(f"10.{number % 7}.{number}.0/26")) for number in range(64)]
        bench.desired = replace(
            bench.desired,
            dataplane=routes(*reversed(changed)),
            touched=dict.fromkeys(route.key for route in changed).keys(),
        )
        await bench.passed()
        assert kernel.writes[-64:] == [f"put {route}" for route in changed]
