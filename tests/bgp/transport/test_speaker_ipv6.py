"""Two real speakers over TCP on IPv6 addresses of a namespace of their own: signed, near, and in both families."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

import pytest
import structlog

from agent.clock import SystemClock
from bgp.looking_glass import Query, RibView, query
from bgp.peer_config import PeerConfig, SpeakerConfig
from bgp.transport.speaker import Speaker
from bgp.wire.families import Address, Family, number_of
from tests.fixtures.namespace import fresh_namespace, ip

ONE, TWO = IPv6Address("fd00::1"), IPv6Address("fd00::2")
FOURS = {ONE: IPv4Address("10.9.1.1"), TWO: IPv4Address("10.9.1.2")}
PORT = 17901
WAIT_SECONDS = 10


@pytest.fixture(scope="module", autouse=True)
def namespace() -> Iterator[None]:
    with fresh_namespace():
        for six, four in FOURS.items():
            ip(f"address add {six}/128 dev lo nodad")
            ip(f"address add {four}/32 dev lo")
        yield


@asynccontextmanager
async def running(own: Address, peer: Address, **more: Any) -> AsyncIterator[tuple[Speaker, asyncio.Event]]:
    changed = asyncio.Event()
    second = FOURS[own] if isinstance(own, IPv6Address) else {v: k for k, v in FOURS.items()}[own]
    config = SpeakerConfig(64512, IPv4Address(number_of(own) & 0xFF), own, PORT, second_address=second)
    speaker = Speaker(config, SystemClock(), changed.set, structlog.get_logger())
    one = PeerConfig(
        peer,
        64512,
        PORT,
        passive=number_of(own) > number_of(peer),
        local_address=own,
        families=frozenset(Family),
        **more,
    )
    speaker.configure({peer: one})
    speaker.announce(frozenset())
    task = asyncio.create_task(speaker.run())
    try:
        await asyncio.wait_for(speaker.listening.wait(), WAIT_SECONDS)
        yield speaker, changed
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(node: tuple[Speaker, asyncio.Event], condition: Callable[[Speaker], bool]) -> None:
    speaker, changed = node
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition(speaker):
            await changed.wait()
            changed.clear()


PROTECTIONS: list[dict[str, Any]] = [{}, {"password": "secret"}, {"ttl_security_hops": 1}]
OWN = frozenset({ip_network("192.168.1.0/26"), ip_network("fd10:1::/122")})


@pytest.mark.parametrize("more", PROTECTIONS, ids=["plain", "signed", "near"])
@pytest.mark.parametrize("over", [6, 4])
async def test_two_speakers_advertise_to_each_other_both_families(over: int, more: dict[str, Any]) -> None:
    addresses: tuple[Address, Address] = (ONE, TWO) if over == 6 else (FOURS[ONE], FOURS[TWO])
    async with running(*addresses, **more) as one, running(*addresses[::-1], **more) as two:
        one[0].announce(OWN)
        await until(two, lambda speaker: len(speaker.learned) == 2)
        found = {str(prefix): str(route.next_hop) for prefix, route in two[0].learned.items()}
        assert found == {"192.168.1.0/26": "10.9.1.1", "fd10:1::/122": "fd00::1"}
        received = query(two[0].instance, Query(RibView.RECEIVED, addresses[0])).paths
        advertised = query(one[0].instance, Query(RibView.ADVERTISED, addresses[1])).paths
        assert [str(path.prefix) for path in received] == ["192.168.1.0/26", "fd10:1::/122"]
        assert [path.prefix for path in advertised] == [path.prefix for path in received]


def calls(config: Callable[[socket.socket], None]) -> socket.socket:
    caller = socket.socket(socket.AF_INET6)
    caller.bind((str(TWO), 0))
    caller.settimeout(0.3)
    config(caller)
    return caller


async def test_a_caller_without_the_password_does_not_even_get_tcp() -> None:
    async with running(ONE, TWO, password="secret"):
        with calls(lambda _: None) as caller, pytest.raises(TimeoutError):
            caller.connect((str(ONE), PORT))


async def test_a_caller_from_further_away_does_not_even_get_tcp() -> None:
    async with running(ONE, TWO, ttl_security_hops=1):
        with (
            calls(lambda sock: sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 254)) as caller,
            pytest.raises(TimeoutError),
        ):
            caller.connect((str(ONE), PORT))
