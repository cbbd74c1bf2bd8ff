"""Which next hops are unreachable: by the kernel, for long enough, and never all of them."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_address

import pytest

from agent.dataplane.kernel.protocol import PathToHost
from agent.netlink.kernel_errors import KernelError, NoWay
from agent.netlink.objects import Address
from agent.peering.nexthop_tracking import MOST_LOOKUPS, UNREACHABLE_SECONDS, NexthopTracking
from tests.fakes.clock import SetClock
from tests.fakes.kernel import FakeKernel

NEAR, FAR, FARTHER = (ip_address(text) for text in ("172.26.0.9", "10.0.0.9", "10.0.0.10"))


class Asked(FakeKernel):
    """A kernel that counts questions, and may have a default route."""

    def __init__(self) -> None:
        super().__init__()
        self.add_link("eth0", "172.26.0.1/24")
        self.reachable: set[Address] = set()
        self.asked: list[Address] = []
        self.is_broken = False

    async def path_to(self, host: Address) -> PathToHost:
        self.asked.append(host)
        if self.is_broken:
            raise KernelError("opening a netlink socket: Too many open files")
        if host in self.reachable:
            return PathToHost("eth0", ip_address("172.26.0.1"), ip_address("172.26.0.254"))
        return await super().path_to(host)


class World:
    """A speaker with these next hops, and the tracking of them."""

    def __init__(self, *next_hops: Address) -> None:
        self.kernel, self.clock = Asked(), SetClock()
        self.unreachable: list[set[Address]] = []
        self.next_hops = next_hops
        self.tracking = NexthopTracking(self.kernel, lambda: self, self.clock)

    @property
    def instance(self) -> World:
        return self

    def set_unreachable_nexthops(self, next_hops: Collection[Address]) -> None:
        self.unreachable.append(set(next_hops))

    async def check(self, after: float = 0.0) -> set[Address]:
        self.clock.at += after
        self.tracking.update(await self.kernel.links())
        await self.tracking.check()
        return self.unreachable[-1]


async def test_a_next_hop_is_unreachable_once_the_kernel_has_had_no_route_for_a_while() -> None:
    world = World(NEAR, FAR)
    assert await world.check() == set()
    assert await world.check(UNREACHABLE_SECONDS - 1) == set()
    assert await world.check(1) == {FAR}
    world.kernel.reachable.add(FAR)
    assert await world.check() == set()
    world.kernel.reachable.clear()
    assert await world.check() == set()  # the while begins anew
    assert await world.check(UNREACHABLE_SECONDS) == {FAR}


async def test_what_is_on_a_links_subnet_is_not_asked_for() -> None:
    world = World(NEAR)
    assert await world.check() == set()
    assert world.kernel.asked == []


async def test_a_default_route_leads_to_every_next_hop() -> None:
    world = World(NEAR, FAR, FARTHER)
    world.kernel.reachable.add(ip_address("198.51.100.1"))
    assert await world.check(UNREACHABLE_SECONDS) == set()
    assert world.kernel.asked == [ip_address("198.51.100.1")]


async def test_where_every_next_hop_is_unreachable_nothing_changes() -> None:
    world = World(FAR, FARTHER)
    await world.check()
    assert await world.check(UNREACHABLE_SECONDS) == set()
    world.kernel.reachable.add(FARTHER)
    assert await world.check() == {FAR}


async def test_a_check_that_fails_changes_nothing() -> None:
    world = World(NEAR, FAR)
    await world.check()
    assert await world.check(UNREACHABLE_SECONDS) == {FAR}
    world.kernel.is_broken = True
    with pytest.raises(KernelError) as caught:
        await world.check()
    assert not isinstance(caught.value, NoWay)
    assert world.unreachable == [set(), {FAR}]


async def test_the_questions_of_one_look_are_bounded_and_the_rest_counts_as_reachable() -> None:
    many = [ip_address((10 << 24) + number) for number in range(MOST_LOOKUPS + 50)]
    world = World(NEAR, *many)
    await world.check()
    assert len(await world.check(UNREACHABLE_SECONDS)) == MOST_LOOKUPS
    assert len(world.kernel.asked) == 2 * (MOST_LOOKUPS + 1)


async def test_each_family_has_its_own_default_route() -> None:
    six = ip_address("2001:db8:1::9")
    world = World(NEAR, FAR, six)
    world.kernel.reachable.add(ip_address("198.51.100.1"))
    await world.check()
    assert await world.check(UNREACHABLE_SECONDS) == {six}
