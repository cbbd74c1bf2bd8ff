"""Router discovery on the links of a fresh namespace: what is sent, what is believed, what is told."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import pytest

from agent.clock import SystemClock
from agent.configuration.config import UplinkSettings
from agent.uplinks import uplinks
from agent.uplinks.discovery_socket import ALL_NODES, DiscoverySocket
from agent.uplinks.link_reader import read_links
from agent.uplinks.router_discovery import Heard, Message, advertisement
from agent.uplinks.uplinks import Uplinks
from bgp.wire.families import Address
from tests.fixtures.namespace import fresh_namespace, ip

WAIT_SECONDS = 10
ROUTER = "fe80::9"


@pytest.fixture(autouse=True)
def namespace() -> Iterator[None]:
    with fresh_namespace():
        Path("/proc/sys/net/ipv6/conf/default/accept_dad").write_text("0")
        for name in ("up1", "cali1"):
            ip(f"link add {name} type veth peer name {name}-far")
            for end in (name, f"{name}-far"):
                Path(f"/proc/sys/net/ipv6/conf/{end}/addr_gen_mode").write_text("1")
                ip(f"link set {end} up")
        ip("address add fe80::1/64 dev up1 nodad")
        ip(f"address add {ROUTER}/64 dev up1-far nodad")
        yield


class Watched:
    """Uplinks at work."""

    def __init__(self, *settings: UplinkSettings) -> None:
        self.changed = asyncio.Event()
        self.called: list[Address] = []
        self.sessions: dict[Address, tuple[str, str]] = {}
        self.looked = asyncio.Event()
        self.uplinks = Uplinks(settings, self._sessions, SystemClock(), self.changed.set, self.called.append)

    def _sessions(self) -> dict[Address, tuple[str, str]]:
        """Asked in each look."""
        self.looked.set()
        return self.sessions

    async def until(self, holds: Callable[[], bool]) -> None:
        """Until something holds, looking whenever the uplinks have looked."""
        async with asyncio.timeout(WAIT_SECONDS):
            while not holds():
                self.looked.clear()
                await self.looked.wait()

    def found(self) -> list[str]:
        return [str(one) for one in self.uplinks.found]

    def row(self) -> dict[str, Any]:
        return self.uplinks.report()[0]

    async def until_changed(self) -> None:
        await asyncio.wait_for(self.changed.wait(), WAIT_SECONDS)
        self.changed.clear()


@asynccontextmanager
async def watching(*settings: UplinkSettings) -> AsyncIterator[Watched]:
    made = Watched(*(settings or (UplinkSettings(interface="up1"),)))
    task = asyncio.create_task(made.uplinks.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextmanager
def tap(name: str) -> Iterator[socket.socket]:
    """All IPv6 packets on an interface."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0) as sock:
        sock.bind((name, 0x86DD))
        yield sock


async def packets(sock: socket.socket, holds: Callable[[bytes], bool]) -> bytes:
    """The first packet of which something holds."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            data = await loop.sock_recv(sock, 2000)
            if holds(data):
                return data


def is_kind(data: bytes, kind: Message) -> bool:
    return len(data) > 40 and data[6] == 58 and data[40] == kind


async def test_a_router_that_advertises_itself_is_found_and_finds_us() -> None:
    with tap("up1-far") as wire:
        far = DiscoverySocket(0)
        try:
            async with watching() as node:
                ours = await packets(wire, lambda data: is_kind(data, Message.ROUTER_ADVERTISEMENT))
                far.send(
                    advertisement(None), ALL_NODES, socket.if_nametoindex("up1-far"), IPv6Address(ROUTER)
                )
                await node.until_changed()
                assert node.found() == [f"{ROUTER}%up1"]
                assert node.row()["router"] == f"{ROUTER}%up1"
        finally:
            far.close()
    hops, source = ours[7], IPv6Address(ours[8:24])
    (lifetime,) = struct.unpack("!H", ours[46:48])
    assert (hops, source, lifetime) == (255, IPv6Address("fe80::1"), 0)


async def test_a_router_that_says_nothing_is_found_by_its_answer_to_all_routers() -> None:
    Path("/proc/sys/net/ipv6/conf/up1-far/forwarding").write_text("1")
    async with watching() as node:
        await node.until_changed()
        assert node.found() == [f"{ROUTER}%up1"]


async def test_an_advertisement_through_a_router_is_nobody_s() -> None:
    far = DiscoverySocket(0)
    here = DiscoverySocket(0)
    try:
        number = socket.if_nametoindex("up1-far")
        far._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 254)
        far.send(advertisement(None), ALL_NODES, number, IPv6Address(ROUTER))
        far._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        far.send(advertisement("02:00:00:00:00:09"), ALL_NODES, number, IPv6Address(ROUTER))
        found: list[Heard] = []
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(here.fileno(), ready.set)
        async with asyncio.timeout(WAIT_SECONDS):
            while not found:
                await ready.wait()
                ready.clear()
                found = [one for one in here.read() if one.interface == socket.if_nametoindex("up1")]
        loop.remove_reader(here.fileno())
        assert len(found) == 1
    finally:
        far.close()
        here.close()


async def test_a_pod_that_advertises_itself_is_no_router_and_is_told_nothing() -> None:
    ip("address add fe80::66/64 dev cali1-far nodad")
    ip("address add fe80::1/64 dev cali1 nodad")
    far = DiscoverySocket(0)
    try:
        with tap("cali1-far") as pods, tap("up1-far") as cable:
            async with watching(UplinkSettings(interface="*1")) as node:
                number = socket.if_nametoindex("cali1-far")
                far.send(advertisement(None), ALL_NODES, number, IPv6Address("fe80::66"))
                await packets(cable, lambda data: is_kind(data, Message.ROUTER_SOLICITATION))
                far.send(
                    advertisement(None), ALL_NODES, socket.if_nametoindex("up1-far"), IPv6Address(ROUTER)
                )
                await node.until_changed()
                assert node.found() == [f"{ROUTER}%up1"]
                assert "cali1" not in {row["interface"] for row in node.uplinks.report()}
            heard = []
            try:
                while True:
                    heard.append(pods.recv(2000))
            except BlockingIOError:
                pass
            ours = [one for one in heard if IPv6Address(one[8:24]) == IPv6Address("fe80::1")]
            assert not [one for one in ours if is_kind(one, Message.ROUTER_ADVERTISEMENT)]
    finally:
        far.close()


async def test_an_interface_that_comes_is_an_uplink_and_one_that_goes_is_none() -> None:
    Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")
    async with watching(UplinkSettings(interface="later*")) as node:
        assert node.uplinks.report()[0]["why_not"] == "no interface has such a name"
        ip("link add later1 type veth peer name far1")
        Path("/proc/sys/net/ipv6/conf/far1/addr_gen_mode").write_text("1")
        ip("address add fe80::77/64 dev far1 nodad")
        ip("link set far1 up")
        ip("link set later1 up")
        await node.until_changed()
        assert node.found() == ["fe80::77%later1"]
        ip("link del later1")
        await node.until_changed()
        assert node.found() == []


async def test_a_router_is_called_at_once_when_its_link_comes_back() -> None:
    Path("/proc/sys/net/ipv6/conf/up1-far/forwarding").write_text("1")
    async with watching() as node:
        await node.until_changed()
        node.called.clear()
        ip("link set up1-far down")
        await node.until(lambda: node.row()["why_not"] == "no link: there is no carrier")
        assert node.called == []
        ip("link set up1-far up")
        await node.until(lambda: bool(node.called))
    assert [str(one) for one in node.called] == [f"{ROUTER}%up1"]


GATEWAYS = {
    "-6 route add default via fe80::9 dev up1": "fe80::9",
    "route add default via 10.1.0.9 dev up1": "10.1.0.9",
    "-4 route add default via inet6 fe80::9 dev up1": "fe80::9",
}


@pytest.mark.parametrize("route", GATEWAYS)
async def test_the_gateway_of_a_default_route_over_a_link_is_read(route: str) -> None:
    ip("address add 10.1.0.1/24 dev up1")
    ip("-6 address add fd00::1/128 dev lo nodad")
    ip(route)
    (link,) = await read_links(lambda name, kind: name == "up1")
    assert [str(one) for one in link.gateways] == [GATEWAYS[route]]
    assert (link.addresses, link.works) == ((IPv6Address("fe80::1%up1"),), True)


async def test_neighbours_are_read_with_what_they_say_of_themselves() -> None:
    ip("neighbour add fe80::9 lladdr 02:00:00:00:00:09 dev up1 router")
    ip("neighbour add fe80::7 lladdr 02:00:00:00:00:07 dev up1")
    ip("neighbour add fe80::9 lladdr 02:00:00:00:00:09 dev cali1 router")
    (link,) = await read_links(lambda name, kind: name == "up1")
    assert set(link.neighbours) == {
        (IPv6Address("fe80::9"), "02:00:00:00:00:09", True),
        (IPv6Address("fe80::7"), "02:00:00:00:00:07", False),
    }


async def test_without_settings_nothing_is_opened() -> None:
    made = Watched()
    task = asyncio.create_task(made.uplinks.run())
    await asyncio.sleep(0)
    assert not hasattr(made.uplinks, "_socket")
    assert made.uplinks.report() == []
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_uplink_that_finds_nobody_is_a_trouble_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(uplinks, "FOUND_WITHIN_SECONDS", 0.0)
    async with watching(UplinkSettings(interface="up1"), UplinkSettings(interface="none*")) as node:
        with tap("up1-far") as wire:
            await packets(wire, lambda data: is_kind(data, Message.ROUTER_SOLICITATION))
        told = {one.about: one.evidence for one in node.uplinks.troubles()}
    assert told["uplink none*"] == "no interface has such a name"
    assert told["uplink up1"].startswith("no router: ")


async def test_two_routers_on_a_link_are_a_trouble_and_the_first_stays() -> None:
    ip("address add fe80::a/64 dev up1-far nodad")
    far = DiscoverySocket(0)
    try:
        number = socket.if_nametoindex("up1-far")
        async with watching() as node:
            with tap("up1-far") as wire:
                await packets(wire, lambda data: is_kind(data, Message.ROUTER_SOLICITATION))
            far.send(advertisement(None), ALL_NODES, number, IPv6Address(ROUTER))
            await node.until_changed()
            node.sessions = {IPv6Address(f"{ROUTER}%up1"): ("Established", "")}
            far.send(advertisement(None), ALL_NODES, number, IPv6Address("fe80::a"))
            await node.until(lambda: bool(list(node.uplinks.troubles())))
            (told,) = node.uplinks.troubles()
        assert "beside fe80::9%up1 also fe80::a%up1" in told.evidence
        assert node.found() == [f"{ROUTER}%up1"]
    finally:
        far.close()
