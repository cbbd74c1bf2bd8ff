"""Random walks: whatever is desired and whatever others do, it is what the kernel ends with; foreign things stay."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address, IPv4Network

import pytest

from agent.dataplane.kernel.dataplane_objects import Dataplane
from agent.dataplane.kernel.ownership import Ownership
from agent.netlink.objects import Route, RouteKey, RouteType
from tests.fakes.kernel import FakeKernel, Fault
from tests.scenes.dataplane.desired_states import EVERYTHING
from tests.scenes.dataplane.reconcilers import IMPATIENT, Bench, running

KEYS = [RouteKey(IPv4Network(f"20.0.{number}.0/26")) for number in range(6)]
STEPS, WALKS = 25, 40


def some_route(dice: random.Random, protocol: int) -> Route:
    key = dice.choice(KEYS)
    if dice.random() < 0.3:
        return Route(key, RouteType.BLACKHOLE, protocol=protocol)
    gateway = IPv4Address("172.26.0.0") + dice.randrange(1, 4)
    return Route(key, gateway=gateway, device=dice.choice(["eth0", "eth1"]), protocol=protocol)


def some_desired(dice: random.Random) -> Dataplane:
    desired = [some_route(dice, 12) for _ in range(dice.randrange(5))]
    base = EVERYTHING if dice.random() < 0.5 else Dataplane()
    return replace(base, routes={**base.routes, **{route.key: route for route in desired}})


class Walk:
    """Somebody with dice, beside the reconciler."""

    def __init__(self, kernel: FakeKernel, dice: random.Random) -> None:
        self.kernel = kernel
        self.dice = dice
        self.foreign: dict[RouteKey, Route] = {}

    def step(self, bench: Bench) -> None:
        actions: list[Callable[[], None]] = [
            self._put,
            partial(self._put_foreign, bench.reconciler.installed),
            self._delete,
            self._flap,
            self._tunnel,
            self._fault,
            self.kernel.overrun,
            self.kernel.foreign_flush_nft,
        ]
        self.dice.choice(actions)()
        if self.dice.random() < 0.4:
            bench.desired = replace(bench.desired, dataplane=some_desired(self.dice))
        if self.dice.random() < 0.5:
            bench.reconciler.trigger()

    def _put(self) -> None:
        route = some_route(self.dice, 12)
        if route.key not in self.foreign:
            self.kernel.foreign_put(route)

    def _put_foreign(self, installed: Mapping[RouteKey, Route]) -> None:
        route = some_route(self.dice, self.dice.choice([3, 4, 11]))
        known = self.kernel.route_table.get(route.key)
        if route.key in installed or (known is not None and Ownership().is_ours(known)):
            return  # between our reading and our replacing it: netlink cannot compare and swap
        self.kernel.foreign_put(route)
        self.foreign[route.key] = route

    def _delete(self) -> None:
        if self.kernel.route_table:
            key = self.dice.choice(sorted(self.kernel.route_table, key=str))
            self.kernel.foreign_delete(key)
            self.foreign.pop(key, None)

    def _flap(self) -> None:
        name = self.dice.choice(["eth0", "eth1", "cali1"])
        for up in (False, True):
            self.kernel.set_link(name, up=up)
        self.foreign = {key: route for key, route in self.foreign.items() if route.device != name}

    def _tunnel(self) -> None:
        for name in tuple(self.kernel.tunnel_table):
            self.kernel.delete_link(name)

    def _fault(self) -> None:
        self.kernel.faults.add(Fault.DUMP_INTERRUPTED)
        self.kernel.overrun()


@pytest.fixture
def walked(kernel: FakeKernel) -> FakeKernel:
    kernel.add_link("eth1", "172.27.0.1/24")
    return kernel


@pytest.mark.parametrize("seed", range(WALKS))
async def test_every_walk_ends_in_the_desired(walked: FakeKernel, seed: int) -> None:
    walk = Walk(walked, random.Random(seed))
    # Every second walk reads everything again at each overrun, so that its steps fall elsewhere.
    timing = replace(IMPATIENT, overrun_seconds=0.0) if seed % 2 else IMPATIENT
    bench = Bench(walked, EVERYTHING, timing=timing)
    for _ in range(2):  # the second life knows nothing of the first
        async with running(bench):
            for _ in range(STEPS):
                walk.step(bench)
                if walk.dice.random() < 0.3:
                    await bench.passed()
            for _ in range(3):
                await bench.passed()
            expected = {
                key: route for key, route in bench.desired.dataplane.routes.items() if key not in walk.foreign
            }
            ours = {key: route for key, route in walked.route_table.items() if Ownership().is_ours(route)}
            assert ours == expected
            assert {key: walked.route_table.get(key) for key in walk.foreign} == walk.foreign
            assert walked.tunnel_table == bench.desired.dataplane.tunnels
            assert walked.neighbour_table == bench.desired.dataplane.neighbours
            assert walked.fdb_table == bench.desired.dataplane.fdb
            assert walked.filter_table == bench.desired.dataplane.workload_filter
            assert (walked.nft_table is None) == (not bench.desired.dataplane.masquerade.sources)
        bench = Bench(walked, bench.desired.dataplane, timing=timing)
