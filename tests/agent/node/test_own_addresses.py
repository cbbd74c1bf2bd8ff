"""The node's addresses stay, change with a word before and after, and one version of IP goes without the other."""

from __future__ import annotations

from ipaddress import ip_interface, ip_network

import pytest

from agent.configuration.config import NodeSettings
from agent.node.address_candidates import InterfaceAddress
from agent.node.autodetection import Autodetection, NoAddress
from agent.node.own_addresses import CHANGE_SECONDS, NOTICE_SECONDS, OwnAddresses
from agent.trouble import TroubleKind
from ipam.model import Pool
from tests.fakes.clock import SetClock
from tests.fakes.kernel import FakeKernel

FOUR, SIX = Pool("four", ip_network("10.244.0.0/16"), 26), Pool("six", ip_network("fd10::/48"), 122)


class World:
    """A machine, its settings, and what the record says."""

    def __init__(self, *addresses: str, pools: tuple[Pool, ...] = (FOUR,), **settings: str) -> None:
        self.kernel, self.clock = FakeKernel(), SetClock()
        self.kernel.add_link("eth0", *addresses)
        self.own = OwnAddresses(
            Autodetection(
                self.kernel,
                NodeSettings(**settings),  # type: ignore[arg-type]
                ("http://172.26.0.1:2379",),
                lambda: pools,
            ),
            self.clock,
        )
        self.recorded: dict[int, InterfaceAddress | None] = {4: None, 6: None}

    def bears(self, *addresses: str) -> None:
        self.kernel.delete_link("eth0")
        self.kernel.add_link("eth0", *addresses)

    async def look(self) -> dict[int, str]:
        """One look; what the record says afterwards."""
        self.recorded |= await self.own.choose(self.recorded)
        return {version: str(one) for version, one in self.recorded.items() if one is not None}

    @property
    def troubles(self) -> list[str]:
        found = list(self.own.troubles())
        assert all(one.kind is TroubleKind.UNDERLAY for one in found)
        return [str(one) for one in found]


@pytest.mark.parametrize(
    "beside",
    [
        ("fd26::99/128", "fd26::b/64"),
        ("fd26::b/64", "fd26::abcd/64"),
        ("fd26::b/128", "fd26::99/64"),
    ],
)
async def test_whatever_comes_beside_the_nodes_address_does_not_displace_it(beside: tuple[str, ...]) -> None:
    own = next(one for one in beside if one.startswith("fd26::b/"))
    world = World("172.26.0.11/20", own, pools=(FOUR, SIX))
    before = await world.look()
    world.bears("172.26.0.99/20", "172.26.0.11/20", *beside)
    for _ in range(3):
        assert await world.look() == before == {4: "172.26.0.11/20", 6: own}
        world.clock.at += CHANGE_SECONDS
    assert world.troubles == []


async def test_an_address_that_is_gone_for_a_moment_changes_nothing() -> None:
    world = World("172.26.0.11/20")
    before = await world.look()
    world.bears("172.26.0.12/20")
    assert await world.look() == before
    assert len(world.troubles) == 1
    world.clock.at += CHANGE_SECONDS / 2
    world.bears("172.26.0.12/20", "172.26.0.11/20")
    assert await world.look() == before
    world.clock.at += CHANGE_SECONDS
    assert await world.look() == before
    assert world.troubles == []


async def test_a_change_is_told_before_and_after() -> None:
    world = World("172.26.0.11/20")
    before = await world.look()
    world.bears("172.26.0.12/20")
    assert await world.look() == before
    assert world.own.is_changing
    assert world.troubles == [
        "the node's address 172.26.0.11: no interface bears it any more; within seconds 172.26.0.12/20 (route to "
        "172.26.0.1 by eth0) takes its place; sessions and tunnels begin anew; put it back on its interface, or let it"
    ]
    world.clock.at += CHANGE_SECONDS
    assert await world.look() == {4: "172.26.0.12/20"}
    await world.look()
    assert not world.own.is_changing
    assert world.troubles == [
        "the node's address 172.26.0.12: it was 172.26.0.11 before; whoever has the old one in BGPPeers, firewalls and "
        "routers does not reach this node; change it there; this is said for five minutes"
    ]
    world.clock.at += NOTICE_SECONDS
    assert world.troubles == []


async def test_an_address_that_a_person_gives_is_taken_at_once() -> None:
    world = World("172.26.0.11/20", address="172.26.0.12/20")
    world.recorded[4] = ip_interface("172.26.0.11/20")
    assert await world.look() == {4: "172.26.0.12/20"}
    await world.look()
    assert "it was 172.26.0.11 before" in world.troubles[0]


async def test_a_host_without_ipv6_goes_on_with_ipv4_and_says_so() -> None:
    world = World("172.26.0.11/20", pools=(FOUR, SIX))
    assert await world.look() == {4: "172.26.0.11/20"}
    (trouble,) = world.troubles
    assert trouble.startswith("IPv6: no node address found (")
    assert "IPv4 goes on" in trouble
    world.bears("172.26.0.11/20", "fd26::b/64")
    assert await world.look() == {4: "172.26.0.11/20", 6: "fd26::b/64"}
    assert world.troubles == []
    world.bears("172.26.0.11/20")
    assert await world.look() == {4: "172.26.0.11/20", 6: "fd26::b/64"}
    assert len(world.troubles) == 1


@pytest.mark.parametrize(
    ("pools", "settings", "waits", "told"),
    [
        ((SIX,), {}, False, False),
        ((), {}, False, False),
        ((FOUR, SIX), {"address": "none"}, False, False),
        ((FOUR, SIX), {}, False, True),
        ((FOUR,), {}, True, True),
    ],
)
async def test_a_host_of_ipv6_alone_is_a_node(
    pools: tuple[Pool, ...], settings: dict[str, str], *, waits: bool, told: bool
) -> None:
    world = World("fd26::c/64", pools=pools, **settings)
    if waits:
        with pytest.raises(NoAddress):
            await world.look()
        world.clock.at += CHANGE_SECONDS
    assert await world.look() == {6: "fd26::c/64"}
    assert [one.startswith("IPv4: no node address found") for one in world.troubles] == [True] * told


async def test_a_node_of_ipv4_that_is_bare_for_a_moment_does_not_become_one_of_ipv6() -> None:
    world = World("172.26.0.11/20", "fd26::c/64")
    await world.look()
    world.bears("fd26::c/64")
    for _ in range(3):
        with pytest.raises(NoAddress):
            await world.look()
        world.clock.at += CHANGE_SECONDS


async def test_no_address_at_all_is_one_sentence() -> None:
    with pytest.raises(NoAddress, match=r"give one as node\.address"):
        await World().look()
