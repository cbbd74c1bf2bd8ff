"""BIRD, FRR and GoBGP as peers, each in every part: mesh member, ToR, reflector, client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

import pytest

from bgp.looking_glass import Query, query
from bgp.peer_config import PeerConfig
from bgp.peer_status import PeerStatus
from bgp.transport.speaker import Speaker
from bgp.wire.families import Family
from tests.interop.daemon import THEIR_BLOCK, THEIR_BLOCK6, Daemon, Setup
from tests.interop.daemons import DAEMONS
from tests.interop.world import OURS, OURS6, THEIRS, THEIRS6, THIRD, Far, Ours, eventually

BLOCK, OTHER, LATER, THIRDS = "192.168.1.0/26", "192.168.2.0/26", "192.168.3.0/26", "192.168.4.0/26"
BLOCK6, LATER6 = "fd01:1::/64", "fd01:3::/64"
MANY = 100_000
TOR_AS, THIRD_AS = 4200000001, 64513
DRAINED_SECONDS = 1.0
TABLE_SECONDS = 150
MAPPED = 0xFFFF << 32
"""RFC 4291 section 2.5.5.2."""

AS_TOLD = {
    "bird": ("BGP.origin: IGP", "BGP.as_path: \n", "BGP.next_hop: 10.9.0.1", "BGP.local_pref: 100"),
    "frr": ("Local", "10.9.0.1", "Origin IGP", "localpref 100"),
    "gobgp": ("10.9.0.1", "{Origin: i}", "{LocalPref: 100}"),
}
"""Our block in each one's words."""

Running = Callable[..., AbstractAsyncContextManager[Daemon]]


@pytest.fixture(params=DAEMONS)
def running(request: pytest.FixtureRequest, far: Far) -> Running:
    """Each daemon in turn, as it is described."""

    @asynccontextmanager
    async def run(*ours: Ours, **setup: Any) -> AsyncIterator[Daemon]:
        daemon = DAEMONS[request.param](far, Setup(**setup))
        try:
            await daemon.follow()
            await daemon.start()
            yield daemon
        finally:
            for one in ours:
                if one.task is not None:
                    await one.kill()
            await daemon.close()

    return run


def status(ours: Ours) -> PeerStatus:
    return next(one for one in ours.speaker.status() if one.address == ours.peer)


async def test_a_mesh_member_and_we_announce_to_each_other_and_withdraw(running: Running) -> None:
    ours = Ours()
    async with running(ours) as daemon:
        ours.start(BLOCK)
        await daemon.watch.until(known=(BLOCK,))
        await ours.until(lambda speaker: bool(speaker.learned) and speaker.converged)
        assert ours.learned() == {THEIR_BLOCK: str(THEIRS)}
        assert all(word in daemon.paths(BLOCK) for word in AS_TOLD[daemon.name])
        assert {
            "four-octet AS numbers (RFC 6793)",
            "route refresh (RFC 2918)",
            "graceful restart (RFC 4724)",
        } <= set(status(ours).agreed)
        extended = "extended messages (RFC 8654)" in status(ours).agreed
        assert extended is (daemon.name != "gobgp")
        ours.announce(OTHER)
        await daemon.watch.until(known=(OTHER,), gone=(BLOCK,))


async def test_a_tor_in_another_as_has_our_as_in_front_and_brings_others_paths(running: Running) -> None:
    ours = Ours(peer_as=TOR_AS)
    third = Ours(asn=THIRD_AS, peer_as=TOR_AS, address=THIRD)
    async with running(ours, third, asn=TOR_AS, third_as=THIRD_AS) as daemon:
        ours.start(BLOCK)
        third.start(THIRDS)
        await daemon.watch.until(known=(BLOCK, THIRDS))
        await ours.until(lambda speaker: len(speaker.learned) == 2)
        (best,) = query(ours.speaker.instance, Query(prefix=ip_network(THIRDS))).paths
        assert [asns for _, asns in best.path.attributes.as_path] == [(TOR_AS, THIRD_AS)]
        await third.until(lambda speaker: len(speaker.learned) == 2)
        assert set(third.learned()) == {BLOCK, THEIR_BLOCK}
        assert "64512" in daemon.paths(BLOCK)
        # FRR announces our own path back to us, which we do not believe.
        expected = 3 if daemon.name == "frr" else 2
        await eventually(lambda: status(ours).received == expected)


async def test_a_reflector_brings_other_clients_paths_with_their_next_hop(running: Running) -> None:
    ours, third = Ours(), Ours(address=THIRD)
    async with running(ours, third, third_as=64512, reflects=True) as daemon:
        ours.start(BLOCK)
        third.start(THIRDS)
        await daemon.watch.until(known=(BLOCK, THIRDS))
        await ours.until(lambda speaker: len(speaker.learned) == 2)
        assert ours.learned() == {THEIR_BLOCK: str(THEIRS), THIRDS: str(THIRD)}
        attributes = query(ours.speaker.instance, Query(prefix=ip_network(THIRDS))).paths[0].path.attributes
        assert attributes.originator_id == THIRD
        assert attributes.cluster_list == (IPv4Address("10.255.0.1"),)
        await third.until(lambda speaker: len(speaker.learned) == 2)
        assert third.learned()[BLOCK] == str(OURS)


async def test_a_client_has_other_clients_paths_from_us(running: Running) -> None:
    client = PeerConfig(THIRD, 64512, local_address=OURS, hold_seconds=9, route_reflector_client=True)
    ours = Ours(more={"route_reflector_client": True}, others=(client,))
    third = Ours(address=THIRD, peer=OURS)
    async with running(ours, third) as daemon:
        ours.start(BLOCK)
        third.start(THIRDS)
        await daemon.watch.until(known=(BLOCK, THIRDS))
        assert str(THIRD) in daemon.paths(THIRDS)
        await third.until(lambda speaker: len(speaker.learned) == 2)
        assert third.learned() == {BLOCK: str(OURS), THEIR_BLOCK: str(THEIRS)}


async def test_one_password_and_one_hop_on_both_sides_bring_the_session_up(running: Running) -> None:
    ours = Ours(more={"password": "secret", "ttl_security_hops": 1}, peer_as=TOR_AS)
    async with running(ours, asn=TOR_AS, password="secret", is_near=True) as daemon:
        ours.start(BLOCK)
        await daemon.watch.until(known=(BLOCK,))
        await ours.until(lambda speaker: bool(speaker.learned))


async def test_two_kills_and_restarts_of_ours_change_nothing_that_a_peer_believes(
    running: Running,
) -> None:
    ours = Ours()
    async with running(ours) as daemon:
        ours.start(BLOCK, OTHER)
        await daemon.watch.until(known=(BLOCK, OTHER))
        await ours.until(lambda speaker: bool(speaker.learned))
        seen = len(daemon.watch.events)
        for _ in range(2):
            await ours.kill()
            ours.start(BLOCK, OTHER, restarting=True)
            await ours.until(lambda speaker: speaker.converged and bool(speaker.learned))
        ours.announce(BLOCK, OTHER, LATER)
        await daemon.watch.until(known=(LATER,))
        assert [line for line in daemon.watch.events[seen:] if LATER not in line] == []


async def test_a_restart_of_a_peer_costs_us_no_path(running: Running) -> None:
    ours = Ours()
    kept: list[bool] = []
    async with running(ours) as daemon:
        ours.start(BLOCK)
        await ours.until(lambda speaker: bool(speaker.learned) and speaker.converged)
        await daemon.kill()
        await ours.until(lambda speaker: all(route.stale for route in speaker.learned.values()))
        kept.append(bool(ours.learned()))
        await daemon.start(again=True)

        def is_fresh(speaker: Speaker) -> bool:
            kept.append(bool(speaker.learned))
            return not any(route.stale for route in speaker.learned.values())

        await ours.until(is_fresh)
        assert all(kept)
        assert ours.learned() == {THEIR_BLOCK: str(THEIRS)}


async def test_a_drained_speakers_paths_are_gone_within_a_second(running: Running) -> None:
    ours = Ours()
    async with running(ours) as daemon:
        ours.start(BLOCK, OTHER)
        await daemon.watch.until(known=(BLOCK, OTHER))
        await ours.until(lambda speaker: bool(speaker.learned))
        async with asyncio.timeout(DRAINED_SECONDS):
            ours.speaker.shutdown("back soon")
            await daemon.watch.until(gone=(BLOCK, OTHER))


async def test_a_peer_that_is_shut_down_takes_its_paths_along(running: Running) -> None:
    ours = Ours()
    async with running(ours) as daemon:
        ours.start(BLOCK)
        await ours.until(lambda speaker: bool(speaker.learned))
        await daemon.watch.until(known=(BLOCK,))
        daemon.shut("back soon")
        await ours.until(lambda speaker: not speaker.learned)
        assert status(ours).last_error.endswith("cease, administrative shutdown (6/2): back soon")


async def test_a_daemon_that_asks_for_a_refresh_gets_everything_again(running: Running) -> None:
    ours = Ours(more={"passive": True})  # no collision at the start cuts the session
    async with running(ours) as daemon:
        ours.start(BLOCK)
        await daemon.watch.until(known=(BLOCK,))
        await ours.until(lambda speaker: speaker.converged and bool(speaker.learned))
        daemon.refresh()
        ours.announce(BLOCK, LATER)
        await daemon.watch.until(known=(LATER,))
        asked = dict(status(ours).messages_received).get("ROUTE_REFRESH", 0)
        assert asked >= 1 if daemon.name != "gobgp" else asked == 0
        assert ours.learned() == {THEIR_BLOCK: str(THEIRS)}
        assert status(ours).sessions == 1


@pytest.mark.timeout(2 * TABLE_SECONDS + 50)  # GoBGP announces one prefix per message
async def test_a_hundred_thousand_prefixes_go_through_a_tor_in_both_directions(running: Running) -> None:
    ours = Ours(peer_as=TOR_AS, more={"passive": True})
    third = Ours(asn=THIRD_AS, peer_as=TOR_AS, address=THIRD, more={"passive": True})
    mine = [f"{IPv4Address((30 << 24) + (number << 6))}/26" for number in range(MANY)]
    others = [f"{IPv4Address((20 << 24) + (number << 6))}/26" for number in range(MANY)]
    async with running(ours, third, asn=TOR_AS, third_as=THIRD_AS, kernel=False):
        ours.start(*mine)
        third.start(*others)
        for one in (ours, third):
            await one.until(lambda speaker: len(speaker.learned) == MANY + 1, TABLE_SECONDS)
        for one in (ours, third):
            found = status(one)
            assert (found.announced, found.sessions) == (MANY, 1)
            assert found.received > MANY  # FRR announces our own table back to us as well


@pytest.mark.parametrize("over_ipv6", [False, True], ids=["over-ipv4", "over-ipv6"])
async def test_ipv6_goes_in_both_directions_over_a_session_of_either_version(
    running: Running, *, over_ipv6: bool
) -> None:
    # Over IPv6, IPv4 is another test.
    families = {Family.IPV6} if over_ipv6 else set(Family)
    ours = Ours(peer=THEIRS6 if over_ipv6 else THEIRS, families=frozenset(families))
    async with running(ours, ipv6=True, over_ipv6=over_ipv6) as daemon:
        ours.start(BLOCK, BLOCK6)
        await daemon.watch.until(known=(BLOCK6,))
        assert str(OURS6) in daemon.paths(BLOCK6)
        await ours.until(lambda speaker: ip_network(THEIR_BLOCK6) in speaker.learned)
        next_hop = ours.learned()[THEIR_BLOCK6]
        is_mapped = daemon.name == "gobgp" and not over_ipv6
        assert next_hop == (f"{IPv6Address(MAPPED | int(THEIRS))}" if is_mapped else str(THEIRS6))
        ours.announce(BLOCK, LATER6)
        await daemon.watch.until(known=(LATER6,), gone=(BLOCK6,))


async def test_ipv4_over_a_session_of_ipv6_comes_with_a_next_hop_of_either_version(running: Running) -> None:
    ours = Ours(peer=THEIRS6, families=frozenset(Family))
    async with running(ours, ipv6=True, over_ipv6=True) as daemon:
        ours.start(BLOCK, BLOCK6)
        await ours.until(lambda speaker: len(speaker.learned) == 2)
        # GoBGP announces its IPv6 address (RFC 8950), the others one of IPv4.
        of_ipv4 = THEIRS6 if daemon.name == "gobgp" else THEIRS
        assert ours.learned() == {THEIR_BLOCK: str(of_ipv4), THEIR_BLOCK6: str(THEIRS6)}
        await daemon.watch.until(known=(BLOCK, BLOCK6))
