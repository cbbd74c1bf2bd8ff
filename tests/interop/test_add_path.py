"""Several paths to a prefix, both ways (RFC 7911): BIRD, FRR and GoBGP as our reflector, and as our client."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, ip_network

import pytest

from bgp.looking_glass import Query, query
from bgp.peer_config import PeerConfig
from bgp.rib.multipath import NextHopSet
from bgp.transport.speaker import Speaker
from bgp.wire.families import Address
from tests.interop.daemon import THEIR_BLOCK, Daemon, Setup
from tests.interop.daemons import DAEMONS
from tests.interop.world import OURS, THEIRS, THIRD, Far, Ours, eventually

BLOCK, OTHER = "192.168.1.0/26", "192.168.2.0/26"


@asynccontextmanager
async def running(name: str, far: Far, *ours: Ours, reflects: bool = False) -> AsyncIterator[Daemon]:
    """A daemon that takes and sends several paths, with our two speakers as neighbours."""
    daemon = DAEMONS[name](far, Setup(third_as=64512, reflects=reflects, several=True, kernel=False))
    try:
        await daemon.start()
        yield daemon
    finally:
        for one in ours:
            if one.task is not None:
                await one.kill()
        await daemon.close()


@pytest.mark.parametrize("name", DAEMONS)
async def test_a_reflector_brings_both_paths_and_takes_back_one_of_them(name: str, far: Far) -> None:
    ours, third = Ours(), Ours(address=THIRD)
    async with running(name, far, ours, third, reflects=True):
        third.start(THEIR_BLOCK, OTHER)
        await third.until(lambda speaker: speaker.converged)
        ours.start()
        prefix = ip_network(THEIR_BLOCK)

        def known(speaker: Speaker) -> set[Address | None]:
            paths = query(speaker.instance, Query(prefix=prefix)).paths
            return {seen.path.attributes.next_hop for seen in paths}

        await eventually(lambda: known(ours.speaker) == {THEIRS, THIRD})
        # GoBGP's own has the origin INCOMPLETE, which is less good.
        both = NextHopSet.of({THEIRS: 1, THIRD: 1})
        assert ours.speaker.learned[prefix].several == (None if name == "gobgp" else both)
        third.announce(OTHER)
        await eventually(lambda: known(ours.speaker) == {THEIRS})
        assert ours.learned() == {THEIR_BLOCK: str(THEIRS), OTHER: str(THIRD)}


@pytest.mark.parametrize("name", DAEMONS)
async def test_a_client_has_both_paths_from_us_and_loses_the_one_that_is_withdrawn(
    name: str, far: Far
) -> None:
    client = PeerConfig(THIRD, 64512, local_address=OURS, hold_seconds=9, route_reflector_client=True)
    ours = Ours(more={"route_reflector_client": True, "paths_sent": 16}, others=(client,))
    third = Ours(address=THIRD, peer=OURS)
    async with running(name, far, ours, third) as daemon:
        ours.start(BLOCK, OTHER)
        third.start(BLOCK)
        await eventually(lambda: hops(daemon, BLOCK) == {OURS, THIRD})
        (status,) = [one for one in ours.speaker.status() if one.address == THEIRS]
        assert "several paths sent: IPv4 (RFC 7911)" in status.agreed
        third.announce()
        await eventually(lambda: hops(daemon, BLOCK) == {OURS})
        ours.announce(OTHER)
        await eventually(lambda: hops(daemon, BLOCK) == set())
        assert hops(daemon, OTHER) == {OURS}


def hops(daemon: Daemon, prefix: str) -> set[IPv4Address]:
    """Which of us a daemon says to be next hops of a prefix."""
    try:
        said = daemon.paths(prefix)
    except subprocess.CalledProcessError:  # it knows no such prefix
        return set()
    words = said.replace(",", " ").replace("(", " ").split()
    return {one for one in (OURS, THIRD) if str(one) in words}
