"""Whole steps of a peer, with messages of families that were and that were not agreed, against a plain model.

The model decodes one message after the other into a dictionary: it has no session, no queue and no tables. What the
speaker holds of the peer must be the same, and another peer must not notice.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

import pytest

from bgp.events import PeerFailed, Send
from bgp.instance import Instance
from bgp.peer_config import PeerConfig, SpeakerConfig
from bgp.peer_status import peer_status
from bgp.rib.held_paths import PREFIX_OCTETS, cost_of
from bgp.scheduler import Scheduler
from bgp.session.fsm import State
from bgp.wire import capabilities, messages, nlri
from bgp.wire.attributes import Context, PathAttributes
from bgp.wire.capabilities import Capabilities, GracefulRestart
from bgp.wire.errors import NotificationError
from bgp.wire.families import Address, Family
from bgp.wire.framing import Framing, frame
from bgp.wire.iana import MessageType
from bgp.wire.messages import Keepalive, Open, RouteRefresh, Update
from tests.scenes.bgp.mistakes import UPDATES, body, tlv
from tests.scenes.bgp.mistakes_ipv6 import UPDATES6, WIRE6, reach

OWN, PEER, WITNESS = (IPv4Address(f"10.0.0.{last}") for last in (1, 2, 3))
BOTH, V4, V6 = frozenset(Family), frozenset({Family.IPV4}), frozenset({Family.IPV6})
SETS = [V4, V6, BOTH]
HOLD_SECONDS = 90


def wide(families: frozenset[Family], path_ids: frozenset[Family] = frozenset()) -> Context:
    return Context(four_octet_as=True, internal=True, families=families, path_ids=path_ids)


@dataclass(slots=True)
class Room:
    """A speaker with a peer under test and a witness, both established as far as they agree on a family."""

    ours: frozenset[Family]
    theirs: frozenset[Family]
    path_ids: frozenset[Family] = frozenset()
    restart: frozenset[Family] | None = None
    router: Instance = field(init=False)
    scheduler: Scheduler = field(init=False)
    connection: int = 0
    sent: bytearray = field(default_factory=bytearray)
    """To the peer under test."""
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.router = Instance(SpeakerConfig(64512, OWN, OWN), lambda: 0.5, 0.0)
        self.scheduler = Scheduler(self.router)
        families = {PEER: self.ours, WITNESS: BOTH}
        self.router.configure(
            {one: PeerConfig(one, 64512, passive=True, families=families[one]) for one in families}, 0.0
        )
        self.router.announce([])
        self.connect(WITNESS, Capabilities(families=BOTH, four_octet_as=64512))
        self.connection = self.connect(PEER, self.offer)

    @property
    def offer(self) -> Capabilities:
        restart = None
        if self.restart is not None:
            restart = GracefulRestart(120, families=self.restart, forwarding_preserved=self.restart)
        return Capabilities(
            families=self.theirs,
            four_octet_as=64512,
            route_refresh=True,
            enhanced_refresh=True,
            extended_message=True,
            add_path_send=self.path_ids,
            graceful_restart=restart,
        )

    def connect(self, remote: Address, offer: Capabilities, now: float = 0.0) -> int:
        assert isinstance(remote, IPv4Address)
        connection = self.router.accept(remote)
        assert connection is not None
        self.router.connected(connection, OWN, now, outgoing=False)
        for message in (Open(64512, HOLD_SECONDS, remote, offer), Keepalive()):
            self.scheduler.receive_queue.put(connection, messages.encode(message, wide(BOTH)))
        self.settle(now)
        return connection

    def settle(self, now: float = 0.0) -> None:
        while True:
            step = self.scheduler.step(now)
            for address, one in step.actions:
                if isinstance(one, Send) and address == PEER:
                    self.sent += one.data
                elif isinstance(one, PeerFailed):
                    self.failures.append(one.traceback)
            if not self.scheduler.is_busy:
                return

    def say(self, *wire: bytes, now: float = 0.0) -> None:
        """One read of the socket."""
        self.scheduler.receive_queue.put(self.connection, b"".join(wire))
        self.settle(now)

    def state(self, remote: Address = PEER) -> State:
        return self.router.peers[remote].state

    def table(self) -> dict[tuple[Family, bytes], PathAttributes]:
        return {
            (family, key): path.attributes
            for family, rib in self.router.peers[PEER].adj_ribs_in.items()
            for key, path in rib.pre_policy.items()
            if key not in rib.faulty
        }

    def known(self) -> set[str]:
        return {
            str(nlri.unpack(prefix, family))
            for family, rib in self.router.ribs.items()
            for prefix in rib.prefixes
        }


# -- each alone, between two good messages ----------------------------------------------------------------------------

ATTRIBUTES = {
    Family.IPV4: PathAttributes(next_hop=PEER, local_pref=100),
    Family.IPV6: PathAttributes(next_hop=IPv6Address("fd00::2"), local_pref=100),
}


def announcement(prefix: str, withdrawn: str = "") -> bytes:
    network = ip_network(prefix)
    family = Family.IPV4 if network.version == 4 else Family.IPV6
    gone = (nlri.pack(ip_network(withdrawn)),) if withdrawn else ()
    told = Update(gone, ATTRIBUTES[family], (nlri.pack(network),), family=family)
    return messages.encode(told, wide(BOTH))


def update(block: bytes = b"", prefixes: bytes = b"", withdrawn: bytes = b"") -> bytes:
    return frame(MessageType.UPDATE, body(block, prefixes, withdrawn))


GOOD = tlv(0x40, 1, "00") + tlv(0x40, 2, "") + tlv(0x40, 5, "00000064")
FOREIGN: dict[str, tuple[frozenset[Family], bytes]] = {
    "End-of-RIB of IPv4": (V6, update()),
    "an IPv4 prefix": (V6, announcement("10.9.0.0/24")),
    "an IPv4 prefix of 33 bits": (V6, update(GOOD, b"\x21\x0a\0\0\0\0")),
    "an IPv4 prefix and a malformed ORIGIN": (V6, update(tlv(0x40, 1, "09"), b"\x18\x0a\x09\0")),
    "an IPv4 withdrawal": (V6, update(b"", b"", b"\x18\x0a\x09\0")),
    "half an IPv4 withdrawal": (V6, update(b"", b"", b"\x18\x0a")),
    "IPv4 prefixes with path identifiers": (V6, update(GOOD, bytes.fromhex("00000007180a0900"))),
    "ORIGIN alone": (V6, update(tlv(0x40, 1, "00"))),
    "attributes without prefixes": (V6, update(GOOD)),
    "MP_REACH of IPv4": (V6, update(tlv(0x80, 14, "000101040a0000020018" + "0a0900") + GOOD)),
    "MP_UNREACH of IPv4": (V6, update(tlv(0x80, 15, "000101" + "180a0900"))),
    "End-of-RIB of IPv4 as MP_UNREACH": (V6, update(tlv(0x80, 15, "000101"))),
    "ROUTE-REFRESH of IPv4": (V6, messages.encode(RouteRefresh(1, 1), wide(BOTH))),
    "BoRR of IPv4": (V6, messages.encode(RouteRefresh(1, 1, 1), wide(BOTH))),
    "EoRR of IPv4": (V6, messages.encode(RouteRefresh(1, 1, 2), wide(BOTH))),
    "MP_REACH of IPv6": (V4, update(tlv(0x80, 14, reach()) + GOOD)),
    "MP_UNREACH of IPv6": (V4, update(tlv(0x80, 15, "000201" + WIRE6))),
    "End-of-RIB of IPv6": (V4, update(tlv(0x80, 15, "000201"))),
    "ROUTE-REFRESH of IPv6": (V4, messages.encode(RouteRefresh(2, 1), wide(BOTH))),
    **{
        f"{name} of family ({afi}, {safi})": (
            BOTH,
            update(tlv(0x80, code, f"{afi:04x}{safi:02x}{value}") + (GOOD if code == 14 else b"")),
        )
        for afi, safi in ((1, 2), (1, 128), (2, 4), (25, 70), (0, 0), (65535, 255))
        for name, code, value in (
            ("MP_REACH", 14, "0c000000000000000a000002" + "00" + "70000011" + "00" * 12),
            ("MP_UNREACH", 15, "70000011" + "00" * 12),
            ("End-of-RIB", 15, ""),
        )
    },
    "ROUTE-REFRESH of multicast": (BOTH, messages.encode(RouteRefresh(1, 2), wide(BOTH))),
    "ROUTE-REFRESH of VPN with ORF": (
        BOTH,
        frame(MessageType.ROUTE_REFRESH, bytes.fromhex("00010080" + "01400007" + "00" * 7)),
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_was_not_agreed_is_ignored_and_counted_and_nothing_around_it_is_lost(name: str) -> None:
    families, foreign = FOREIGN[name]
    room = Room(families, BOTH)
    before, behind = (
        ("fd10:1::/64", "fd10:2::/64") if Family.IPV6 in families else ("10.1.0.0/24", "10.2.0.0/24")
    )
    room.say(announcement(before), foreign, announcement(behind))
    assert room.known() == {before, behind}
    assert not room.router.peers[PEER].adj_ribs_in[max(families)].eor_received
    shown = peer_status(room.router.peers[PEER], room.state(), None)
    assert (room.state(), shown.tolerated, room.failures) == (State.ESTABLISHED, 1, [])
    assert shown.ignored == (0 if name in ("ORIGIN alone", "attributes without prefixes") else 1)


@pytest.mark.parametrize("families", SETS, ids=["v4", "v6", "both"])
def test_end_of_rib_may_come_twice_and_before_and_behind_everything(families: frozenset[Family]) -> None:
    room = Room(families, families)
    ends = [messages.encode(Update(family=family), wide(BOTH)) for family in families]
    told = {Family.IPV4: "10.1.0.0/24", Family.IPV6: "fd10:1::/64"}
    room.say(*ends, *[announcement(told[family]) for family in families], *ends, *ends)
    assert room.known() == {told[family] for family in families}
    assert all(rib.eor_received for rib in room.router.peers[PEER].adj_ribs_in.values())
    assert room.router.peers[PEER].counts.tolerated == 0


@pytest.mark.parametrize(("ours", "theirs"), [(V4, V6), (V6, V4)])
def test_without_a_common_family_there_is_no_session(
    ours: frozenset[Family], theirs: frozenset[Family]
) -> None:
    room = Room(ours, theirs)
    assert room.state() is State.ACTIVE
    assert bytes(room.sent[-2 - 6 * len(ours) :][:2]) == b"\x02\x07"


def test_the_start_waits_for_no_family_that_the_peer_will_never_end() -> None:
    for restart in (V4, V6):
        room = Room(BOTH, BOTH, restart=restart)
        ends = messages.encode(Update(family=min(restart)), wide(BOTH))
        room.say(ends)
        silent = {Family.IPV4, Family.IPV6} - restart
        assert not any(room.router.peers[PEER].adj_ribs_in[one].eor_received for one in silent)
        waits = room.router.peers[PEER].deferred_until
        assert waits < 10, "else a start lasts as long as the deferral"


def test_paths_of_a_family_that_the_next_session_does_not_have_go() -> None:
    room = Room(BOTH, BOTH, restart=BOTH, path_ids=BOTH)
    told = Update((), ATTRIBUTES[Family.IPV6], (b"\0\0\0\7" + nlri.pack(ip_network("fd10:1::/64")),))
    room.say(messages.encode(Update((), told.attributes, told.announced, family=Family.IPV6), wide(BOTH)))
    room.router.disconnected(room.connection, "cut", 1.0)
    room.settle(1.0)
    assert room.known() == {"fd10:1::/64"}
    room.theirs, room.path_ids, room.restart = V4, frozenset(), V4
    room.connection = room.connect(PEER, room.offer, 2.0)
    assert (room.known(), room.state()) == (set(), State.ESTABLISHED)


def test_stale_paths_with_and_without_identifiers_all_go_at_the_end() -> None:
    """Two sessions, one with path identifiers and one without, then a third that announces nothing."""
    room = Room(V4, V4, restart=V4, path_ids=V4)
    plain = nlri.pack(ip_network("10.1.0.0/24"))
    several = Update((), ATTRIBUTES[Family.IPV4], (b"\0\0\0\7" + plain, b"\0\0\0\11" + plain))
    for path_ids, announced in ((V4, several.announced), (frozenset[Family](), (plain,))):
        room.path_ids = path_ids
        if announced == (plain,):
            room.connection = room.connect(PEER, room.offer, 2.0)
        room.say(messages.encode(Update((), several.attributes, announced), wide(BOTH)), now=2.0)
        room.router.disconnected(room.connection, "cut", 3.0)
        room.settle(3.0)
    room.connection = room.connect(PEER, room.offer, 4.0)
    assert room.known() == {"10.1.0.0/24"}
    room.say(messages.encode(Update(), wide(BOTH)), now=5.0)
    assert (room.known(), room.router.next_hops) == (set(), frozenset())


# -- whole steps against the model ------------------------------------------------------------------------------------


class Model:
    """What a peer's octets come to, one message after the other."""

    def __init__(self, families: frozenset[Family], path_ids: frozenset[Family]) -> None:
        self.context = wide(families, path_ids)
        self.table: dict[tuple[Family, bytes], PathAttributes] = {}
        self.unrefreshed: dict[Family, set[bytes]] = {}
        """Between BoRR and EoRR of a family: what was not announced again."""
        self.is_over = False

    def hear(self, wire: bytes) -> None:
        framing = Framing()
        framing.largest = 65535
        try:
            for kind, content in framing.receive(wire):
                message = messages.decode(kind, content, self.context)
                if isinstance(message, Update):
                    self._take(message)
                elif isinstance(message, RouteRefresh):
                    self._refresh(message)
                elif isinstance(message, Open | messages.Notification):
                    self.is_over = True
                    return
        except NotificationError:
            self.is_over = True

    def _refresh(self, message: RouteRefresh) -> None:
        family = capabilities.family_at(message.afi, message.safi)
        if family not in self.context.families:
            return
        if message.subtype == messages.Subtype.BEGIN:
            self.unrefreshed[family] = {key for one, key in self.table if one is family}
        elif message.subtype == messages.Subtype.END:
            for key in self.unrefreshed.pop(family, ()):
                self.table.pop((family, key), None)

    def _take(self, update: Update | None) -> None:
        while update is not None:
            assert update.family in self.context.families
            self.unrefreshed.get(update.family, set()).difference_update(update.withdrawn, update.announced)
            for key in update.withdrawn:
                self.table.pop((update.family, key), None)
            if update.attributes is not None:
                self.table |= {(update.family, key): update.attributes for key in update.announced}
            update = update.beside


MISTAKES = [frame(MessageType.UPDATE, one) for mistake in [*UPDATES, *UPDATES6] for one in mistake.bodies]


class Speech:
    """Octets of a peer, at random, mostly right."""

    def __init__(self, dice: random.Random, path_ids: frozenset[Family], mutated: float) -> None:
        self._dice, self._path_ids, self._mutated = dice, path_ids, mutated
        self._strange = [wire for _, wire in FOREIGN.values()]

    def _prefix(self, family: Family) -> bytes:
        dice = self._dice
        if family is Family.IPV4:
            found = nlri.pack(IPv4Network((10 << 24 | dice.randrange(40) << 8, 24)))
        else:
            found = nlri.pack(IPv6Network((0xFD10 << 112 | dice.randrange(40) << 64, 64)))
        return dice.randrange(3).to_bytes(4, "big") + found if family in self._path_ids else found

    def _good(self) -> bytes:
        dice = self._dice
        family = dice.choice([*Family])
        if dice.random() < 0.1:
            return messages.encode(
                dice.choice([Update(family=family), Keepalive(), RouteRefresh(family)]), wide(BOTH)
            )
        some = tuple({self._prefix(family) for _ in range(dice.randint(1, 6))})
        cut = dice.randint(0, len(some))
        last = dice.randint(2, 9)
        hop: Address = (
            IPv4Address(f"10.0.0.{last}") if family is Family.IPV4 else IPv6Address(f"fd00::{last}")
        )
        attributes = PathAttributes(next_hop=hop, local_pref=dice.randint(1, 4), med=dice.choice([None, 1]))
        told = Update(some[:cut], attributes if cut < len(some) else None, some[cut:], family=family)
        return messages.encode(told, wide(BOTH))

    def message(self) -> bytes:
        dice = self._dice
        kind = dice.random()
        if kind < 0.6:
            return self._good()
        if kind < 0.9:
            return dice.choice(self._strange)
        if kind < 1 - self._mutated:
            return self._good()
        wire = bytearray(dice.choice([self._good(), dice.choice(MISTAKES), dice.choice(self._strange)]))
        for _ in range(dice.randint(1, 3)):
            wire[dice.randrange(19, len(wire)) if len(wire) > 19 else 18] = dice.randrange(256)
        return bytes(wire)

    def step(self) -> bytes:
        return b"".join(self.message() for _ in range(self._dice.randint(1, 12)))


def walk(seed: int, steps: int, mutated: float) -> tuple[int, int]:
    """(messages, sessions) of steps that all came to what the model has."""
    dice = random.Random(seed)
    spoken = sessions = 0
    while steps > 0:
        ours, theirs = dice.choice(SETS), dice.choice(SETS)
        if not ours & theirs:
            continue
        offered = frozenset(one for one in Family if dice.random() < 0.3)
        room = Room(ours, theirs, offered & theirs)
        speech = Speech(dice, offered & theirs & ours, mutated)
        model = Model(ours & theirs, offered & theirs & ours)
        sessions += 1
        for _ in range(dice.randint(5, 40)):
            wire = speech.step()
            room.say(wire)
            model.hear(wire)
            steps, spoken = steps - 1, spoken + wire.count(b"\xff" * 16)
            assert room.failures == []
            assert room.state(WITNESS) is State.ESTABLISHED
            if model.is_over:
                assert (room.state(), room.table(), room.known()) == (State.ACTIVE, {}, set()), wire.hex()
                break
            assert (room.state(), room.table()) == (State.ESTABLISHED, model.table), wire.hex()
            accepted = {
                str(nlri.unpack(nlri.prefix_of(key), family))
                for family, rib in room.router.peers[PEER].adj_ribs_in.items()
                for key in rib.pre_policy.keys() - rib.rejected.keys()
            }
            assert room.known() == accepted, wire.hex()
            for rib in room.router.peers[PEER].adj_ribs_in.values():
                paths = {id(path): path for path in rib.pre_policy.values()}.values()
                costs = sum(cost_of(path.attributes) for path in paths)
                assert rib.held.octets == costs + PREFIX_OCTETS * len(rib.pre_policy), wire.hex()
    return spoken, sessions


@pytest.mark.parametrize("seed", range(4))
def test_whole_steps_of_any_families_come_to_what_their_messages_come_to_one_by_one(seed: int) -> None:
    spoken, sessions = walk(seed, 250, mutated=0.02)
    assert spoken > 1000
    assert sessions > 5
