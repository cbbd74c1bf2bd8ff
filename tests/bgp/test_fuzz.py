"""Mutated messages against a whole router: no exception, no growth, and it still works afterwards."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv4Network

import pytest

from bgp.events import PeerFailed
from bgp.instance import Instance
from bgp.peer_config import PeerConfig, SpeakerConfig
from bgp.wire import messages, nlri
from bgp.wire.attributes import Context, PathAttributes
from bgp.wire.capabilities import Capabilities
from bgp.wire.families import Family
from bgp.wire.framing import frame
from bgp.wire.iana import MessageType
from bgp.wire.messages import Keepalive, Open, Update
from tests.scenes.bgp.mistakes import OPENS, UPDATES
from tests.scenes.bgp.mistakes_ipv6 import UPDATES6

ROUNDS = 4000
WIDE = Context(four_octet_as=True, internal=True)
OWN, PEER = IPv4Address("127.0.12.1"), IPv4Address("127.0.12.2")
HELLO = messages.encode(
    Open(64512, 90, PEER, Capabilities(families=frozenset(Family), four_octet_as=64512)), WIDE
)
HELLO += messages.encode(Keepalive(), WIDE)
CORPUS = [frame(MessageType.UPDATE, body) for mistake in [*UPDATES, *UPDATES6] for body in mistake.bodies]
CORPUS += [bytes.fromhex(wire) for _, wire, _ in OPENS] + [HELLO[: len(HELLO) - 19], HELLO[-19:]]


def mutated(message: bytes, dice: random.Random) -> bytes:
    """A few octets changed, cut out or put in; the length field mostly follows, so that the body is looked at."""
    out = bytearray(message)
    for _ in range(dice.randint(0, 3)):
        kind, place = dice.random(), dice.randrange(18, len(out))
        if kind < 0.7:
            out[place] = dice.randrange(256)
        elif kind < 0.85 and len(out) > 23:
            del out[place : place + dice.randint(1, 4)]
        else:
            out[place:place] = dice.randbytes(dice.randint(1, 4))
    if dice.random() < 0.9:
        out[16:18] = len(out).to_bytes(2, "big")
    return bytes(out)


@pytest.mark.parametrize("seed", range(3))
def test_mutated_messages_neither_break_a_router_nor_make_it_grow(seed: int) -> None:
    dice = random.Random(seed)
    router = Instance(SpeakerConfig(64512, OWN, OWN), dice.random, 0.0)
    router.configure({PEER: PeerConfig(PEER, 64512, passive=True, families=frozenset(Family))}, 0.0)
    router.announce([IPv4Network("10.0.0.0/24")])
    established = 0
    for step in range(ROUNDS):
        now = step / 1000
        if router.peers[PEER].connection is None:
            established += connect(router, now) is not None
        connection = router.peers[PEER].connection
        assert connection is not None
        message = mutated(dice.choice(CORPUS), dice)
        cut = dice.randrange(len(message) + 1)
        for part in (message[:cut], message[cut:]):
            router.received(connection, part, now)
        router.handle_timer(now)
        actions, _ = router.flush(now)
        assert not [one for _, one in actions if isinstance(one, PeerFailed)]
        while router.next_update(connection):
            pass
    assert established > ROUNDS / 10
    assert sum(map(len, router.ribs.values())) < 100
    if router.peers[PEER].connection is None:
        connect(router, ROUNDS)
    connection = router.peers[PEER].connection
    assert connection is not None
    router.disconnected(connection, "cut", ROUNDS)
    connection = connect(router, ROUNDS)
    late = nlri.pack(IPv4Network("192.168.7.0/26"))
    told = Update((), PathAttributes(next_hop=PEER, local_pref=100), (late,))
    router.received(connection, messages.encode(told, WIDE), ROUNDS)
    assert router.ribs[Family.IPV4].best(late) is not None


def connect(router: Instance, now: float) -> int:
    connection = router.accept(PEER)
    assert connection is not None
    router.connected(connection, OWN, now, outgoing=False)
    router.received(connection, HELLO, now)
    router.flush(now)
    return connection
