"""What real daemons said to us once is understood to this day, however its bytes are cut (made by tests.bgp.record)."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path

import pytest

from bgp.events import UpdateFaults
from bgp.instance import Instance
from bgp.learned_routes import Learned
from bgp.peer_config import PeerConfig, SpeakerConfig
from bgp.wire.families import Address, Family, Prefix

FOLDER = Path(__file__).parent / "recordings"
RECORDINGS = sorted(FOLDER.glob("*.txt"))
NOW = 1000.0
Told = tuple[Prefix, Address, str]
"""A prefix, its next hop, and that one's address on the link, or `-`."""


@dataclass(slots=True)
class Mark:
    """What our speaker knew at a moment."""

    name: str
    learned: list[Told] = field(default_factory=list)
    state: str = ""
    error: str = ""


@dataclass(slots=True)
class Recording:
    """A file, read."""

    facts: dict[str, str] = field(default_factory=dict)
    steps: list[bytes | Mark] = field(default_factory=list)


def read(path: Path) -> Recording:
    found = Recording()
    for line in path.read_text().splitlines():
        word, _, rest = line.partition(" ")
        last = found.steps[-1] if found.steps else None
        if word == "<":
            data = bytes.fromhex(rest)
            if isinstance(last, bytes):
                found.steps[-1] = last + data
            else:
                found.steps.append(data)
        elif word == "mark":
            found.steps.append(Mark(rest))
        elif word in ("=", "state", "error"):
            assert isinstance(last, Mark)
            if word == "=":
                prefix, hop, link = rest.split()
                last.learned.append((ip_network(prefix), ip_address(hop), link))
            else:
                setattr(last, word, rest)
        else:
            found.facts[word] = rest
    return found


class Replay:
    """A router that hears a recording."""

    def __init__(self, recording: Recording) -> None:
        self.peer: Address = ip_address(recording.facts["peer"])
        self.own: Address = ip_address(recording.facts["own"])
        self.families = frozenset(Family[name] for name in recording.facts["families"].split(","))
        second = IPv4Address("10.9.0.1") if self.own.version == 6 else ip_address("fd09::1")
        router_id = IPv4Address("10.9.0.1")
        self.router = Instance(
            SpeakerConfig(64512, router_id, self.own, second_address=second), lambda: 0.5, NOW
        )
        config = PeerConfig(self.peer, int(recording.facts["as"]), passive=True, families=self.families)
        self.router.configure({self.peer: config}, NOW)
        self.router.announce([])
        connection = self.router.accept(self.peer)
        assert connection is not None
        self.connection = connection
        self.router.connected(connection, self.own, NOW, outgoing=False)
        self.faults: list[str] = []
        self.flush()

    def hear(self, data: bytes) -> None:
        self.router.received(self.connection, data, NOW)
        self.flush()

    def flush(self) -> None:
        wire, _ = self.router.flush(NOW)
        self.faults += [fault for _, one in wire if isinstance(one, UpdateFaults) for fault in one.faults]
        while self.router.next_update(self.connection):
            pass

    def learned(self) -> set[Told]:
        return {
            (prefix, route.next_hop, str(route.link_local or "-"))
            for prefix, route in Learned(self.router).items()
        }


@pytest.mark.parametrize("seed", [None, 1, 2], ids=["as it came", "cut", "cut otherwise"])
@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_a_recorded_session_is_understood_as_it_was(path: Path, seed: int | None) -> None:
    recording, dice = read(path), random.Random(seed)
    replay = Replay(recording)
    peer = replay.router.peers[replay.peer]
    for step in recording.steps:
        if isinstance(step, bytes):
            while step:
                cut = len(step) if seed is None else dice.randint(1, 40)
                replay.hear(step[:cut])
                step = step[cut:]
            continue
        assert replay.learned() == set(step.learned), step.name
        assert peer.state.value == step.state, step.name
        assert peer.last_error == step.error, step.name
    assert replay.faults == []
    assert peer.sessions == 1


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_a_recorded_session_ends_its_first_table_in_every_family(path: Path) -> None:
    recording = read(path)
    replay = Replay(recording)
    for step in recording.steps:
        if isinstance(step, bytes):
            replay.hear(step)
    intakes = replay.router.peers[replay.peer].adj_ribs_in
    assert {family for family, intake in intakes.items() if intake.eor_received} == replay.families


def test_there_are_recordings_of_each_daemon_in_each_way_of_peering() -> None:
    daemons = {read(path).facts["daemon"].split()[0] for path in RECORDINGS}
    assert daemons == {"BIRD", "bgpd", "gobgpd"}
    numbers = {read(path).facts["as"] == "64512" for path in RECORDINGS}
    assert numbers == {True, False}
    assert any("fd09" in read(path).facts["peer"] for path in RECORDINGS)
