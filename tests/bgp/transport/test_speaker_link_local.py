"""Two speakers on the two ends of links that have link-local addresses alone, the same one on each link."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
import structlog

from agent.clock import SystemClock
from bgp.peer_config import PeerConfig, SpeakerConfig
from bgp.session.fsm import State
from bgp.transport.socket_addresses import address_of, socket_address
from bgp.transport.speaker import Speaker
from bgp.wire.families import Address
from tests.fixtures.namespace import fresh_namespace, ip

PORT = 17931
WAIT_SECONDS = 10
NEAR, FAR = "fe80::1", "fe80::2"
"""On every link: the addresses of its two ends."""


@pytest.fixture(scope="module", autouse=True)
def namespace() -> Iterator[None]:
    with fresh_namespace():
        Path("/proc/sys/net/ipv6/conf/default/accept_dad").write_text("0")
        for link in ("a", "b"):
            ip(f"link add {link}1 type veth peer name {link}2")
            for end, address in ((1, NEAR), (2, FAR)):
                Path(f"/proc/sys/net/ipv6/conf/{link}{end}/addr_gen_mode").write_text("1")
                ip(f"link set {link}{end} up")
                ip(f"address add {address}/64 dev {link}{end} nodad")
        for address in ("10.9.4.1", "10.9.4.2"):
            ip(f"address add {address}/32 dev lo")
        yield


def peer(address: str, **more: Any) -> PeerConfig:
    given = {"asn": 64512, "port": PORT, "hold_seconds": 9} | more
    return PeerConfig(IPv6Address(address), **given)


class Running:
    """A speaker at work."""

    def __init__(self, number: int, *peers: PeerConfig, own: Address | None = None) -> None:
        self.changed = asyncio.Event()
        router_id = IPv4Address(f"10.9.4.{number}")
        config = SpeakerConfig(64512, router_id, own or router_id, PORT)
        self.speaker = Speaker(config, SystemClock(), self.changed.set, structlog.get_logger())
        self.configure(*peers)
        self.speaker.announce(frozenset())

    def configure(self, *peers: PeerConfig) -> None:
        self.speaker.configure({one.address: one for one in peers})

    def states(self) -> dict[str, State]:
        return {str(one.address): one.state for one in self.speaker.status()}

    def errors(self) -> dict[str, str]:
        return {str(one.address): one.last_error for one in self.speaker.status()}


@asynccontextmanager
async def running(*many: Running) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(one.speaker.run()) for one in many]
    try:
        for one in many:
            await asyncio.wait_for(one.speaker.listening.wait(), WAIT_SECONDS)
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(holds: Callable[[], bool], *many: Running) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not holds():
            waits = [asyncio.create_task(one.changed.wait()) for one in many]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED, timeout=0.1)
            for one, wait in zip(many, waits, strict=True):
                wait.cancel()
                one.changed.clear()


def up(one: Running, *addresses: str) -> bool:
    return one.states() == dict.fromkeys(addresses, State.ESTABLISHED)


async def test_a_link_local_local_address_with_its_zone_is_what_connections_come_from() -> None:
    caller = Running(1, peer(f"{FAR}%a1", local_address=IPv6Address(f"{NEAR}%a1")))
    called = Running(2, peer(f"{NEAR}%a2", passive=True))
    async with running(caller, called):
        await until(lambda: up(caller, f"{FAR}%a1") and up(called, f"{NEAR}%a2"), caller, called)
        (session,) = [one.session for one in caller.speaker.instance.peers.values()]
        assert session is not None
        assert session.local.address == IPv6Address(f"{NEAR}%a1")


async def test_the_same_address_on_two_links_is_two_peers_and_each_meets_its_own_password() -> None:
    near = Running(1, peer(f"{FAR}%a1", password="one"), peer(f"{FAR}%b1", password="two"))
    far = Running(
        2, peer(f"{NEAR}%a2", password="one", passive=True), peer(f"{NEAR}%b2", password="two", passive=True)
    )
    async with running(near, far):
        await until(lambda: up(near, f"{FAR}%a1", f"{FAR}%b1"), near, far)
        await until(lambda: up(far, f"{NEAR}%a2", f"{NEAR}%b2"), near, far)


async def test_who_calls_from_the_wrong_link_is_nobody() -> None:
    near = Running(1, peer(f"{FAR}%a1", passive=True))
    far = Running(2, peer(f"{NEAR}%b2"))
    async with running(near, far):
        await until(lambda: far.errors()[f"{NEAR}%b2"] not in ("", "it was not called yet"), near, far)
        assert near.states() == {f"{FAR}%a1": State.ACTIVE}


async def test_a_link_that_is_not_there_yet_is_listened_on_when_it_comes() -> None:
    near = Running(1, peer(f"{FAR}%c1", passive=True))
    far = Running(2)
    async with running(near, far):
        ip("link add c1 type veth peer name c2")
        for end, address in ((1, NEAR), (2, FAR)):
            ip(f"link set c{end} up")
            ip(f"address add {address}/64 dev c{end} nodad")
        far.configure(peer(f"{NEAR}%c2"))
        await until(lambda: up(near, f"{FAR}%c1"), near, far)
        ip("link del c1")


async def test_a_peer_on_an_interface_that_is_not_there_says_so() -> None:
    near = Running(1, peer(f"{FAR}%none0"))
    async with running(near):
        await until(lambda: "No such device" in near.errors()[f"{FAR}%none0"], near)


async def test_a_link_s_socket_stands_beside_one_for_all_addresses() -> None:
    near = Running(1, peer(f"{FAR}%a1", passive=True, password="x"), own=IPv6Address("::"))
    far = Running(2, peer(f"{NEAR}%a2", password="x"))
    async with running(near, far):
        await until(lambda: up(near, f"{FAR}%a1"), near, far)


@pytest.mark.parametrize("text", ["10.9.4.1", "fd00::1", "fe80::1%a1", "fe80::1"])
def test_an_address_and_its_zone_come_back_from_a_socket_as_they_went_into_it(text: str) -> None:
    address: Address = IPv4Address(text) if "." in text else IPv6Address(text)
    assert address_of(socket_address(address, PORT)) == address
