"""How long a tunnel that is not desired any more is left."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

from agent.dataplane.explain.route_troubles import Surroundings, route_troubles
from agent.dataplane.kernel.calico_names import TUNL0, VXLAN_DEVICE
from agent.dataplane.kinds.tunnels import MOST_GRACE_SECONDS, TunnelGracePeriod
from agent.netlink.objects import Route
from agent.trouble import TroubleKind
from tests.fakes.kernel import FakeKernel, Fault
from tests.scenes.dataplane.desired_states import EVERYTHING, FORWARDING, IPIP, REMOTE, VTEP
from tests.scenes.dataplane.reconcilers import Bench, running


def test_what_is_desired_again_in_time_was_never_unwanted() -> None:
    grace = TunnelGracePeriod(5.0)
    assert grace.over({TUNL0: 0, VXLAN_DEVICE: 0}, 10.0) == []
    assert grace.over({TUNL0: 0}, 12.0) == []
    assert grace.next_at(12.0) == 15.0
    assert grace.over({TUNL0: 0, VXLAN_DEVICE: 0}, 16.0) == [TUNL0]
    assert grace.next_at(16.0) == 21.0
    assert grace.next_at(22.0) is None
    assert grace.over({}, 17.0) == []
    assert grace.next_at(17.0) is None


def test_a_tunnel_is_left_while_packets_come_but_not_for_ever() -> None:
    grace = TunnelGracePeriod(5.0)
    for second in range(0, 299, 4):
        assert grace.over({TUNL0: second}, second) == []
        assert grace.next_at(second) == min(second + 5, MOST_GRACE_SECONDS)
    assert grace.over({TUNL0: 1000}, MOST_GRACE_SECONDS) == [TUNL0]

    quiet = TunnelGracePeriod(5.0)
    assert quiet.over({TUNL0: 7}, 0.0) == []
    assert quiet.over({TUNL0: 8}, 5.0) == []
    assert quiet.over({TUNL0: 8}, 9.0) == []
    assert quiet.over({TUNL0: 8}, 10.0) == [TUNL0]


async def test_while_the_new_tunnel_cannot_be_made_the_old_one_stays_with_its_routes_and_entries() -> None:
    """A pool of VXLAN becomes one of IPIP, and this kernel has none."""
    kernel = FakeKernel()
    kernel.add_link("eth0", "172.26.0.1/24")
    kernel.add_link("cali1")
    over_ipip = Route(REMOTE.key, gateway=IPv4Address("172.26.0.2"), device=TUNL0, onlink=True)
    async with running(Bench(kernel, EVERYTHING)) as bench:
        kernel.faults.add(Fault.NO_IPIP)
        kernel.writes.clear()
        rest = {key: route for key, route in EVERYTHING.routes.items() if key != REMOTE.key}
        wanted = replace(
            EVERYTHING,
            tunnels={TUNL0: IPIP},
            neighbours={},
            fdb={},
            routes={**rest, over_ipip.key: over_ipip},
        )
        bench.desired = replace(bench.desired, dataplane=wanted)
        await bench.quiet()
        assert kernel.writes == []
        assert (kernel.route_table[REMOTE.key], list(kernel.tunnel_table)) == (REMOTE, [VXLAN_DEVICE])
        assert list(kernel.neighbour_table) == [(VXLAN_DEVICE, VTEP.address)]
        assert list(kernel.fdb_table) == [(VXLAN_DEVICE, FORWARDING.mac)]
        unknown = {key: route for key, route in wanted.routes.items() if key != REMOTE.key}
        for complete in (True, False):  # of a start, when BGP has yet to say where the block is
            later = replace(wanted, routes=unknown, tunnels={TUNL0: IPIP} if complete else {})
            bench.desired = replace(bench.desired, dataplane=later, bgp_complete=complete)
            await bench.quiet()
            assert kernel.route_table[REMOTE.key] == REMOTE
        bench.desired = replace(bench.desired, dataplane=wanted, bgp_complete=True)
        await bench.quiet()
        kernel.overrun()  # everything is read again
        await bench.quiet()
        assert bench.reconciler.report().overruns == 1
        assert set(bench.reconciler.report().drift.values()) == {0}  # there never was a tunl0
        (trouble,) = route_troubles(bench.reconciler.snapshot(), (), Surroundings())
        assert (trouble.kind, trouble.about) == (TroubleKind.TUNNEL, TUNL0)
        kernel.faults.clear()
        kernel.add_link("other")  # a module that is loaded makes a link
        await bench.until(lambda: kernel.route_table[REMOTE.key] == over_ipip)
        await bench.until(lambda: VXLAN_DEVICE not in kernel.tunnel_table)
        assert kernel.fdb_table == {}
        assert list(route_troubles(bench.reconciler.snapshot(), (), Surroundings())) == []
