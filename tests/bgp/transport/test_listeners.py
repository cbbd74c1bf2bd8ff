"""What is demanded of a peer holds for the first octet of a connection, whatever was sent before it was accepted."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from agent.clock import SystemClock
from bgp.peer_config import PeerConfig, SpeakerConfig
from bgp.session.fsm import State
from bgp.transport import speaker
from bgp.transport.speaker import Speaker
from bgp.transport.tcp import set_md5_key
from bgp.transport.tcp_info import OpeningPacket, parse_opening_packet
from bgp.wire import messages
from bgp.wire.attributes import Context, PathAttributes
from bgp.wire.capabilities import Capabilities
from bgp.wire.families import Address
from bgp.wire.messages import Keepalive, Open, Update
from bgp.wire.nlri import pack
from tests.fixtures.namespace import fresh_namespace, ip

PORT = 17913
WAIT_SECONDS = 10
ADDRESSES = {4: ("10.9.2.1", "10.9.2.2", "10.9.2.3"), 6: ("fd02::1", "fd02::2", "fd02::3")}
"""Ours, the caller's, and that of a neighbour of whom nothing is demanded."""
CALLS = 6
WIDE = Context(four_octet_as=True, internal=True)


def announced(prefix: str) -> bytes:
    """An UPDATE."""
    attributes = PathAttributes(next_hop=IPv4Address("10.9.2.2"))
    return messages.encode(Update((), attributes, (pack(ip_network(prefix)),)), WIDE)


ALL_AT_ONCE = (
    messages.encode(Open(64512, 90, IPv4Address("10.9.2.2"), Capabilities(four_octet_as=64512)), WIDE)
    + messages.encode(Keepalive(), WIDE)
    + announced("0.0.0.0/1")
)


@pytest.fixture(scope="module", autouse=True)
def namespace() -> Iterator[None]:
    with fresh_namespace():
        for version, many in ADDRESSES.items():
            for address in many:
                ip(f"address add {address} dev lo{' nodad' if version == 6 else ''}")
        yield


class Node:
    """Our speaker; of one peer something is demanded, of the other nothing."""

    def __init__(self, version: int, **demands: Any) -> None:
        own, caller, other = map(ip_address, ADDRESSES[version])
        self.own, self.caller, self._other = own, caller, other
        self.changed = asyncio.Event()
        config = SpeakerConfig(64512, IPv4Address("10.9.2.1"), own, PORT)
        self.speaker = Speaker(config, SystemClock(), self.changed.set, structlog.get_logger())
        self.demand(**demands)
        self.speaker.announce(frozenset())

    def demand(self, **demands: Any) -> None:
        peers: dict[Address, PeerConfig] = {
            self.caller: PeerConfig(self.caller, 64512, PORT, passive=True, **demands),
            self._other: PeerConfig(self._other, 64512, PORT, passive=True),
        }
        self.speaker.configure(peers)

    @property
    def state(self) -> State:
        return self.speaker.instance.peers[self.caller].state

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.speaker.run())
        try:
            await asyncio.wait_for(self.speaker.listening.wait(), WAIT_SECONDS)
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while not condition():
                await self.changed.wait()
                self.changed.clear()

    @contextmanager
    def call(self, ttl: int = 64, password: str = "") -> Iterator[socket.socket]:
        """A connection with all that was sent on it waits in the kernel before our speaker looks again."""
        with socket.socket(socket.AF_INET if self.own.version == 4 else socket.AF_INET6) as sock:
            if password:
                set_md5_key(sock, self.own, password)
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)
            else:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
            sock.settimeout(0.3)
            sock.bind((str(self.caller), 0))
            sock.connect((str(self.own), PORT))
            sock.sendall(ALL_AT_ONCE)
            sock.setblocking(False)
            yield sock

    async def is_believed(self, sock: socket.socket) -> bool:
        """Whether a call leads to a session, or ends."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(WAIT_SECONDS):
            try:
                heard = b""
                while some := await loop.sock_recv(sock, 4096):
                    heard += some
                    if messages.encode(Keepalive(), WIDE) in heard:
                        return True
            except ConnectionError:
                pass
        return False


@pytest.mark.parametrize("version", [4, 6])
async def test_data_from_afar_before_it_is_accepted_is_not_believed_though_another_peer_may_be_far(
    version: int,
) -> None:
    node = Node(version, ttl_security_hops=1)
    async with node.running():
        with capture_logs() as logs:
            for _ in range(CALLS):
                with node.call(ttl=64) as sock:
                    assert not await node.is_believed(sock)
                assert node.state is State.ACTIVE
                assert not node.speaker.learned
        assert {one["why"] for one in logs if one["event"] == "bgp.connection_refused"} == {
            "its first packet has come with TTL 64, and 255 is demanded"
        }
        with node.call(ttl=255) as sock:
            assert await node.is_believed(sock)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("demand", "fulfils"),
    [({"ttl_security_hops": 1}, {"ttl": 255}), ({"password": "secret"}, {"password": "secret"})],
    ids=["TTL", "MD5"],
)
async def test_what_is_demanded_while_a_connection_waits_to_be_accepted_holds_for_that_too(
    version: int, demand: dict[str, Any], fulfils: dict[str, Any]
) -> None:
    node = Node(version)
    async with node.running():
        with node.call() as sock:
            node.demand(**demand)
            assert not await node.is_believed(sock)
        with node.call(**fulfils) as sock:
            assert await node.is_believed(sock)


def dropped_for_their_ttl() -> int:
    """How many packets the kernel has dropped so in this namespace."""
    names, numbers = (line.split() for line in Path("/proc/net/netstat").read_text().splitlines()[:2])
    return int(numbers[names.index("TCPMinTTLDrop")])


@pytest.mark.parametrize("ttl", [64, 255])
async def test_ttl_security_that_comes_later_silences_whoever_is_far_and_leaves_who_is_near(ttl: int) -> None:
    node = Node(4)
    async with node.running():
        with node.call(ttl=ttl) as sock:
            assert await node.is_believed(sock)
            await node.until(lambda: len(node.speaker.learned) == 1)
            node.demand(ttl_security_hops=1)
            before = dropped_for_their_ttl()
            sock.sendall(announced("128.0.0.0/1"))
            if ttl == 64:
                assert dropped_for_their_ttl() > before
            else:
                await node.until(lambda: len(node.speaker.learned) == 2)
        assert node.speaker.status()[0].sessions == 1


@pytest.mark.parametrize(
    ("demand", "believed"), [({}, True), ({"ttl_security_hops": 1}, False)], ids=["nothing", "TTL"]
)
async def test_under_syn_cookies_who_must_be_near_is_turned_away_and_others_are_not(
    demand: dict[str, Any], believed: bool
) -> None:
    setting = Path("/proc/sys/net/ipv4/tcp_syncookies")
    before = setting.read_text()
    setting.write_text("2")
    try:
        node = Node(4, **demand)
        async with node.running():
            with capture_logs() as logs, node.call(ttl=255) as sock:
                assert await node.is_believed(sock) is believed
            why = [one["why"] for one in logs if one["event"] == "bgp.connection_refused"]
            assert why == ([] if believed else ["nothing is known of its first packet"])
    finally:
        setting.write_text(before)


async def test_a_signed_call_without_a_key_of_ours_is_dropped_so_a_signature_in_a_first_packet_was_checked() -> (
    None
):
    node = Node(4)
    async with node.running():
        with pytest.raises(TimeoutError), node.call(password="secret"):
            pass


TCP = "00b300b3000000010000000050020000" + "00000000"
SIGNED = "00b300b30000000100000000a0020000" + "00000000" + "01011312" + "00" * 16


@pytest.mark.parametrize(
    ("packet", "known"),
    [
        ("45000028000040" + "00ff0600000a0902020a090201" + TCP, OpeningPacket(255, is_signed=False)),
        ("4600002c000040" + "00400600000a0902020a09020101010100" + TCP, OpeningPacket(64, is_signed=False)),
        ("45000028000040" + "00fe0600000a0902020a090201" + SIGNED, OpeningPacket(254, is_signed=True)),
        ("60000000001406ff" + "fd02" + "00" * 30 + TCP, OpeningPacket(255, is_signed=False)),
        ("60000000001400ff" + "fd02" + "00" * 30 + TCP, None),
        ("45000028000040" + "00ff0600000a0902020a090201", None),
        ("45000028", None),
        ("", None),
        ("00", None),
        (
            "45000028000040" + "00ff0600000a0902020a090201" + SIGNED[:42] + "13",
            OpeningPacket(255, is_signed=True),
        ),
        (
            "45000028000040" + "00ff0600000a0902020a090201" + SIGNED[:40] + "0200" * 4,
            OpeningPacket(255, is_signed=False),
        ),
    ],
)
def test_a_first_packet_is_read_whatever_is_in_it(packet: str, known: OpeningPacket | None) -> None:
    assert parse_opening_packet(bytes.fromhex(packet)) == known


KEY = "a password"
MANY = 12
OPTMEM = Path("/proc/sys/net/core/optmem_max")
"""Of this network namespace (Linux 6.8)."""


def peers_of(passwords: list[str]) -> dict[Address, PeerConfig]:
    callers = [ip_address(f"10.9.3.{number}") for number in range(1, len(passwords) + 1)]
    return {
        one: PeerConfig(one, 64512, PORT, passive=True, password=word)
        for one, word in zip(callers, passwords, strict=True)
    }


@contextmanager
def optmem(octets: int) -> Iterator[None]:
    before = OPTMEM.read_text()
    OPTMEM.write_text(str(octets))
    yield
    OPTMEM.write_text(before)


async def test_peers_that_share_a_password_need_the_memory_of_one_key() -> None:
    node = Node(4)
    ip("address add 10.9.3.1 dev lo")
    async with node.running():
        with optmem(400):
            node.speaker.configure(peers_of([KEY] * MANY))
        assert node.speaker.refused_keys == {}
        node.caller = ip_address("10.9.3.1")
        with node.call(password=KEY) as sock:
            assert await node.is_believed(sock)
        with pytest.raises(TimeoutError), node.call():
            pass
        node.speaker.configure(peers_of(["", *[KEY] * MANY]))
        with node.call() as sock:
            assert await node.is_believed(sock), "the key of the others is not asked of one that has none"


async def test_passwords_without_memory_are_told_and_in_force_as_soon_as_there_is_some() -> None:
    node = Node(4)
    async with node.running():
        with optmem(400), capture_logs() as logs:
            node.speaker.configure(peers_of([f"{KEY} {number}" for number in range(MANY)]))
            refused = node.speaker.refused_keys
            assert 8 <= len(refused) < MANY
            assert set(refused.values()) == {"Cannot allocate memory"}
            node.speaker.configure(peers_of([f"{KEY} {number}" for number in range(MANY)]))
            assert len([one for one in logs if one["event"] == "bgp.no_md5"]) == len(refused), "once each"
        with optmem(node.speaker.optmem_needed), capture_logs() as logs:
            node.speaker.configure(peers_of([f"{KEY} {number}" for number in range(MANY)]))
            assert node.speaker.refused_keys == {}
        assert len([one for one in logs if one["event"] == "bgp.md5"]) == len(refused)


async def test_the_kernel_is_asked_again_for_a_key_that_it_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speaker, "SECURITY_RETRY_SECONDS", 0.01)
    node, again = Node(4), asyncio.Event()
    async with node.running():
        with optmem(400):
            node.speaker.configure(peers_of([f"{KEY} {number}" for number in range(MANY)]))
            assert node.speaker.refused_keys
        with monkeypatch.context() as patched:
            patched.setattr(node.speaker._log, "info", lambda *_, **__: again.set(), raising=False)
            await asyncio.wait_for(again.wait(), WAIT_SECONDS)
        assert node.speaker.refused_keys == {}
