"""Another machine with the node's address is a trouble as long as it answers; this one's own interfaces are none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface

import pytest
import structlog
from structlog.testing import capture_logs

from agent.dataplane.inputs.facts import Facts, NodeAddresses
from agent.netlink.arp import ArpNews
from agent.netlink.objects import Link
from agent.node.address_conflicts import (
    FEWEST_SECONDS,
    HOLD_SECONDS,
    PROBE_SECONDS,
    TICK_SECONDS,
    AddressConflicts,
)
from ipam.model import NodeName
from tests.fakes.clock import SetClock

ME, OWN, OTHER = NodeName("me"), IPv4Address("172.26.0.11"), "02:00:00:00:00:99"
ETH0 = Link(2, "eth0", None, 1500, True, "02:00:00:00:00:01", ((OWN, 20),))
ETH1 = Link(3, "eth1", None, 1500, True, "02:00:00:00:00:02")


class Wire:
    """A packet socket whose packets a test puts in."""

    def __init__(self, interface: str, address: IPv4Address) -> None:
        self.opened = interface, address
        self.news: list[ArpNews] = []
        self.probes = 0
        self.closed = False
        self._pipe = os.pipe()

    def fileno(self) -> int:
        return self._pipe[0]

    def send_probe(self, mac: str) -> None:
        self.probes += 1

    def read(self) -> ArpNews | None:
        return self.news.pop(0) if self.news else None

    def close(self) -> None:
        self.closed = True
        for end in self._pipe:
            os.close(end)


class World:
    def __init__(self) -> None:
        self.clock, self.wires = SetClock(), list[Wire]()
        self.error: OSError | None = None
        self.facts = Facts(
            node=ME,
            nodes={ME: NodeAddresses(IPv4Interface("172.26.0.11/20"))},
            links={"eth0": ETH0, "eth1": ETH1},
        )
        self.watch = AddressConflicts(lambda: self.facts, self.clock, structlog.get_logger(), self._open)

    def _open(self, interface: str, address: IPv4Address) -> Wire:
        if self.error is not None:
            raise self.error
        self.wires.append(Wire(interface, address))
        return self.wires[-1]

    def tick(self, seconds: float = TICK_SECONDS) -> None:
        self.clock.at += seconds
        self.watch.tick()

    def hear(self, *macs: str | None) -> None:
        self.wires[-1].news += map(ArpNews, macs)
        self.watch.receive()

    @property
    def troubles(self) -> list[str]:
        return [str(one) for one in self.watch.troubles()]


@pytest.fixture
async def world() -> Iterator[World]:  # type: ignore[misc]
    made = World()
    yield made
    made.facts = replace(made.facts, nodes={})
    made.watch.tick()
    assert all(wire.closed for wire in made.wires)


async def test_another_machine_is_a_trouble_at_once_and_until_it_is_silent(world: World) -> None:
    with capture_logs() as logged:
        world.tick()
        assert world.troubles == []
        world.hear(OTHER, OTHER)
        assert world.troubles == [
            f"the node's address {OWN}: the machine with the MAC {OTHER} on the link of eth0 says that it is its own; "
            "packets for this node go to the one or to the other; give that machine another address"
        ]
        probes = world.wires[0].probes
        for _ in range(10):
            world.tick()
            world.hear(OTHER)
        assert world.wires[0].probes == probes + 10
        assert len(world.troubles) == 1
        world.tick(HOLD_SECONDS)
        assert world.troubles == []
    assert [one["event"] for one in logged] == ["node.address_conflict", "node.address_conflict_over"]


async def test_this_machines_other_interfaces_are_no_other_machine(world: World) -> None:
    world.tick()
    world.hear("02:00:00:00:00:02", "02:00:00:00:00:01")
    assert world.troubles == []


async def test_without_a_conflict_a_probe_is_rare(world: World) -> None:
    for _ in range(round(3 * PROBE_SECONDS / TICK_SECONDS)):
        world.tick()
    assert world.wires[0].probes == 3


async def test_whenever_somebody_asks_all_machines_for_the_address_this_one_asks_too_but_not_without_end(
    world: World,
) -> None:
    world.tick()
    world.clock.at += FEWEST_SECONDS
    world.hear(None, None)
    assert world.wires[0].probes == 2, "at once: an answer of another machine would win now"
    for _ in range(50):
        world.hear(None)
    assert world.wires[0].probes == 2
    world.tick()
    assert world.wires[0].probes == 3, "for those that came so soon after"
    world.tick()
    assert world.wires[0].probes == 3


async def test_a_changed_address_or_interface_is_watched_anew(world: World) -> None:
    world.tick()
    world.hear(OTHER)
    moved = replace(ETH1, addresses=((OWN, 20),))
    world.facts = replace(world.facts, links={"eth1": moved})
    world.tick()
    assert [wire.opened for wire in world.wires] == [("eth0", OWN), ("eth1", OWN)]
    assert (world.wires[0].closed, world.troubles) == (True, [])
    world.facts = replace(world.facts, nodes={ME: NodeAddresses(None)})
    world.tick()
    assert world.wires[1].closed


async def test_a_flood_of_claimants_is_bounded(world: World) -> None:
    world.tick()
    world.hear(*(f"02:00:00:00:01:{number:02x}" for number in range(60)))
    assert len(world.troubles) == 8


@pytest.mark.parametrize(
    ("error", "said"),
    [(PermissionError(1, "Operation not permitted"), 1), (OSError(19, "No such device"), 0)],
)
async def test_a_socket_that_cannot_be_opened_ends_nothing(world: World, error: OSError, said: int) -> None:
    world.error = error
    with capture_logs() as logged:
        for _ in range(5):
            world.tick()
    assert sum(one["log_level"] == "warning" for one in logged) == said
    assert world.troubles == []
