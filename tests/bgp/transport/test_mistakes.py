"""Each mistake goes over TCP to a running speaker: its answer, what a third peer hears, whether the session stands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network, IPv6Address

import pytest
import structlog

from agent.clock import SystemClock
from bgp.peer_config import PeerConfig, SpeakerConfig
from bgp.transport.speaker import Speaker
from bgp.wire import messages, nlri
from bgp.wire.attributes import Context
from bgp.wire.capabilities import Capabilities
from bgp.wire.families import Family
from bgp.wire.framing import Framing, frame
from bgp.wire.iana import MessageType
from bgp.wire.messages import Keepalive, Message, Notification, Open, Update
from tests.fixtures.namespace import fresh_namespace
from tests.scenes.bgp.mistakes import ESTABLISHED, GONE, KEPT, OPENS, PREFIX, UPDATES, Mistake, body, good
from tests.scenes.bgp.mistakes_ipv6 import MARKER6, MARKER_REACH, PREFIX6, UPDATES6, body6

PORT = 17912
US, INSIDE, OUTSIDE, THIRD = (IPv4Address(f"127.0.12.{last}") for last in (1, 2, 3, 9))
US6 = IPv6Address("fd00::1")
ASN = {INSIDE: 64512, OUTSIDE: 65001, THIRD: 65009}
MARKER = nlri.pack(IPv4Network("192.168.99.0/26"))
SUBJECTS = {Family.IPV4: (PREFIX, "192.168.1.0/26"), Family.IPV6: (PREFIX6, "fd10:1::/122")}
WAIT_SECONDS = 5
WIDE = Context(four_octet_as=True, internal=True, families=frozenset(Family))


@pytest.fixture(scope="module", autouse=True)
def namespace() -> Iterator[None]:
    """Ports and addresses that no other checkout's tests have."""
    with fresh_namespace():
        yield


class Raw:
    """A peer that says exactly what it is told to."""

    def __init__(self, own: IPv4Address) -> None:
        self.own = own
        self._writer: asyncio.StreamWriter | None = None
        self._framing = Framing()
        self._found: list[Message] = []

    async def connect(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(
            str(US), PORT, local_addr=(str(self.own), 0)
        )

    async def establish(self) -> None:
        await self.connect()
        asn = ASN[self.own]
        offer = Capabilities(families=frozenset(Family), four_octet_as=asn)
        self.send(messages.encode(Open(asn, 90, self.own, offer), WIDE) + messages.encode(Keepalive(), WIDE))
        assert isinstance(await self.next(), Open)
        assert isinstance(await self.next(), Keepalive)

    def send(self, data: bytes) -> None:
        assert self._writer is not None
        self._writer.write(data)

    def update(self, content: bytes) -> None:
        self.send(frame(MessageType.UPDATE, content))

    async def next(self) -> Message | None:
        """The next message; None when the speaker has closed."""
        async with asyncio.timeout(WAIT_SECONDS):
            while not self._found:
                data = await self._reader.read(65536)
                if not data:
                    return None
                for kind, content in self._framing.receive(data):
                    self._found.append(messages.decode(kind, content, WIDE))
        return self._found.pop(0)

    async def answer(self) -> str:
        """The NOTIFICATION that ends the session: code, subcode and data in hex."""
        found = ""
        while (message := await self.next()) is not None:
            if isinstance(message, Notification):
                assert not found
                found = bytes([message.code, message.subcode]).hex() + message.data.hex()
        return found

    async def until(self, prefix: bytes) -> list[Update]:
        """The UPDATEs up to the one that announces this prefix."""
        found = []
        while not found or prefix not in found[-1].announced:
            message = await self.next()
            assert message is not None, found
            if isinstance(message, Update):
                found.append(message)
        return found

    def close(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()


@asynccontextmanager
async def world(sender: IPv4Address) -> AsyncIterator[tuple[Raw, Raw, Speaker]]:
    config = SpeakerConfig(64512, US, US, PORT)
    speaker = Speaker(config, SystemClock(), lambda: None, structlog.get_logger())
    both = frozenset(Family)
    speaker.configure(
        {
            one: PeerConfig(one, ASN[one], passive=True, local_address=US6, families=both)
            for one in (sender, THIRD)
        }
    )
    speaker.announce(frozenset())
    listening = asyncio.create_task(speaker.run())
    raw, third = Raw(sender), Raw(THIRD)
    try:
        await speaker.listening.wait()
        yield raw, third, speaker
    finally:
        raw.close()
        third.close()
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


@pytest.mark.parametrize(("wire", "answer"), [pytest.param(*row, id=name) for name, *row in OPENS])
async def test_a_wrong_start_has_its_answer(wire: str, answer: str) -> None:
    async with world(INSIDE) as (raw, third, _):
        await raw.connect()
        await third.connect()
        raw.send(bytes.fromhex(wire))
        assert await raw.answer() == answer


@pytest.mark.parametrize(("wire", "answer"), [pytest.param(*row, id=name) for name, *row in ESTABLISHED])
async def test_a_wrong_message_in_a_session_has_its_answer_and_costs_the_routes(
    wire: str, answer: str
) -> None:
    async with world(INSIDE) as (raw, third, speaker):
        await raw.establish()
        await third.establish()
        raw.update(body(b"".join(good(internal=True).values())))
        await third.until(PREFIX)
        raw.send(bytes.fromhex(wire))
        assert await raw.answer() == answer
        assert isinstance(update := await third.next(), Update)
        assert update.withdrawn == (PREFIX,)
        assert not speaker.learned


@pytest.mark.parametrize("internal", [True, False], ids=["iBGP", "eBGP"])
@pytest.mark.parametrize("mistake", [pytest.param(one, id=one.name) for one in [*UPDATES, *UPDATES6]])
async def test_a_wrong_update_costs_what_the_rfcs_say_and_no_more(mistake: Mistake, internal: bool) -> None:
    outcome = mistake.outcomes[not internal]
    attributes = b"".join(good(internal).values())
    prefix, shown = SUBJECTS[mistake.family]
    async with world(INSIDE if internal else OUTSIDE) as (raw, third, speaker):
        await raw.establish()
        await third.establish()
        raw.update(body(attributes) if mistake.family is Family.IPV4 else body6(internal, {}))
        await third.until(prefix)
        raw.update(mistake.bodies[not internal])
        if isinstance(outcome, tuple):
            assert await raw.answer() == bytes(outcome).hex()
            assert isinstance(update := await third.next(), Update)
            assert update.withdrawn == (prefix,)
            return
        ipv4 = mistake.family is Family.IPV4
        raw.update(body(attributes, MARKER) if ipv4 else body6(internal, MARKER_REACH))
        heard = await third.until(MARKER if ipv4 else MARKER6)
        withdrawn = any(prefix in update.withdrawn for update in heard)
        assert (KEPT if not withdrawn else GONE) == outcome
        learned = {str(one) for one in speaker.learned}
        assert learned == {"192.168.99.0/26" if ipv4 else "fd10:9::/64"} | (
            {shown} if outcome == KEPT else set()
        )


async def test_what_is_not_understood_goes_on_with_the_partial_bit_and_what_must_not_leave_stays() -> None:
    extra = bytes.fromhex("c0630155" + "80620177")
    async with world(OUTSIDE) as (raw, third, _):
        await raw.establish()
        await third.establish()
        raw.update(body(b"".join(good(internal=False).values()) + extra))
        update = (await third.until(PREFIX))[-1]
        assert update.attributes is not None
        assert update.attributes.unknown == ((0xE0, 99, b"\x55"),)
        assert update.attributes.as_path == ((2, (64512, 65001)),)


CONFINED = ("ffffff01", "ffffff02", "ffffff03")


@pytest.mark.parametrize("community", [*CONFINED, "fc000001"])
async def test_well_known_communities_are_honoured(community: str) -> None:
    async with world(INSIDE) as (raw, third, _):
        await raw.establish()
        await third.establish()
        attributes = b"".join(good(internal=True).values())
        raw.update(body(attributes + bytes.fromhex("c00804" + community)))
        if community in CONFINED:
            raw.update(body(attributes, MARKER))
            heard = await third.until(MARKER)
            assert not any(PREFIX in update.announced for update in heard)
            # A confined path that takes the place of a free one takes it back.
            raw.update(body(attributes))
            await third.until(PREFIX)
            raw.update(body(attributes + bytes.fromhex("c00804" + community)))
            assert isinstance(update := await third.next(), Update)
            assert update.withdrawn == (PREFIX,)
        else:
            await third.until(PREFIX)


def test_the_table_is_as_long_as_it_should_be() -> None:
    assert len(OPENS) + len(ESTABLISHED) + 2 * len(UPDATES) + 2 * len(UPDATES6) >= 400
