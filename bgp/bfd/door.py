"""What an agent and the BFD process say to each other: JSON lines over a UNIX socket.

The agent sends the whole set of sessions that it wants, each time; the process answers with a whole report, and then
with the sessions that changed. What one of them does not know of the other's fields it passes over, for they may be
of two versions: the process outlives an agent's upgrade. Promises: pure; every value from the other side is bounded
and typed here, and what is not is BadMessage with one sentence. Does not know: sockets, what a session does."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from bgp.bfd.bfd_session import Timers

MOST_SESSIONS = 256
LONGEST_LINE = 1 << 18
"""Octets of a message: so many sessions, each with all that can be said of it."""
SHORTEST_MS, LONGEST_MS = 10, 60_000
"""Of an interval. A round of the process takes a moment (`bgp/bfd/loop.py`): shorter ones would promise too much."""
SHORTEST_IDLE_MS = 1_000
"""Between packets of a session that is not up (RFC 5880 section 6.8.3)."""
LONGEST_INTERFACE = 15
"""IFNAMSIZ - 1."""
LARGEST_TTL = 255

Interval = Annotated[int, Meta(ge=SHORTEST_MS, le=LONGEST_MS)]
Multiplier = Annotated[int, Meta(ge=1, le=255)]
_Text = Annotated[str, Meta(max_length=64)]
_Sentence = Annotated[str, Meta(max_length=500)]
_Count = Annotated[int, Meta(ge=0)]


class BadMessage(ValueError):
    """A line that is no message."""


class SessionKey(Struct, frozen=True):
    """Which session: one between two addresses (RFC 5881 section 2, RFC 5883 section 2)."""

    peer: _Text
    """The neighbour's address, without a zone."""
    local: _Text = ""
    """Ours; empty: whatever the kernel takes."""
    interface: Annotated[str, Meta(max_length=LONGEST_INTERFACE)] = ""
    """The link it is bound to; empty: any."""
    multihop: bool = False
    """RFC 5883: port 4784, from any distance; else RFC 5881: port 3784, from the link alone."""


class DesiredSession(Struct, frozen=True):
    """A session that an agent wants."""

    key: SessionKey
    min_tx_ms: Interval = 100
    min_rx_ms: Interval = 100
    multiplier: Multiplier = 3
    idle_ms: Annotated[int, Meta(ge=SHORTEST_IDLE_MS, le=LONGEST_MS)] = SHORTEST_IDLE_MS
    """Between our packets while it is not up."""
    minimum_ttl: Annotated[int, Meta(ge=1, le=LARGEST_TTL)] = LARGEST_TTL
    """Of what the neighbour sends; a packet with less came from too far away (RFC 5082)."""

    @property
    def timers(self) -> Timers:
        """As the session has them."""
        return Timers(self.min_tx_ms * 1000, self.min_rx_ms * 1000, self.multiplier, self.idle_ms * 1000)


class Desired(Struct, frozen=True):
    """All sessions that an agent wants, and no others."""

    sessions: Annotated[tuple[DesiredSession, ...], Meta(max_length=MOST_SESSIONS)]
    version: _Count = 0
    """Of the set: a report says which one it is about."""


class SessionReport(Struct, frozen=True):
    """A session as it is."""

    key: SessionKey
    state: _Text = "Down"
    discriminator: _Count = 0
    """Ours: another one means another session, of which nothing is known."""
    failures: _Count = 0
    """How often this session failed: it was up, and fell silent or was down at the other end."""
    remote_state: _Text = "Down"
    remote_discriminator: _Count = 0
    remote_independent: bool = False
    """The neighbour's C bit."""
    diagnostic: _Text = ""
    """Why it went down last."""
    remote_diagnostic: _Text = ""
    seconds: float = 0.0
    """Since when it has been in this state."""
    tx_ms: float = 0.0
    """Between our packets, as agreed."""
    rx_ms: float = 0.0
    detection_ms: float = 0.0
    multiplier: _Count = 0
    error: _Sentence = ""
    """Why it cannot speak or listen; empty: it can."""


class Report(Struct, frozen=True):
    """What the process says."""

    version: _Count = 0
    whole: bool = False
    """Whether these are all sessions; else those that changed."""
    sessions: Annotated[tuple[SessionReport, ...], Meta(max_length=MOST_SESSIONS)] = ()
    counters: Annotated[dict[_Text, _Count], Meta(max_length=64)] = {}
    """Packets by what became of them; in whole reports."""
    error: _Sentence = ""
    """Why the last message of this connection counts for nothing."""


_desired, _report = msgspec.json.Decoder(Desired), msgspec.json.Decoder(Report)


def encode(message: Desired | Report) -> bytes:
    """One line."""
    return msgspec.json.encode(message) + b"\n"


def read_desired(line: bytes) -> Desired:
    """An agent's message. Raises BadMessage."""
    try:
        found = _desired.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(f"the message cannot be read: {error}") from error
    seen: set[SessionKey] = set()
    for session in found.sessions:
        _check(session)
        if session.key in seen:
            raise BadMessage(f"the session with {session.key.peer} is there twice")
        seen.add(session.key)
    return found


def read_report(line: bytes) -> Report:
    """The process's message. Raises BadMessage."""
    try:
        return _report.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(f"the message cannot be read: {error}") from error


def address(text: str) -> IPv4Address | IPv6Address:
    """A key's address. Raises BadMessage."""
    try:
        found = ip_address(text)
    except ValueError as error:
        raise BadMessage(str(error)) from error
    if "%" in text:
        raise BadMessage(f"{text}: name the zone as the session's interface")
    return found


def _check(session: DesiredSession) -> None:
    key = session.key
    peer = address(key.peer)
    if key.local and address(key.local).version != peer.version:
        raise BadMessage(f"the session with {key.peer}: {key.local} is of the other version of IP")
    if "/" in key.interface or "\0" in key.interface:
        raise BadMessage(f"the session with {key.peer}: {key.interface!r} is no interface")
    if peer.is_link_local and not key.interface:
        raise BadMessage(f"the session with {key.peer}: a link-local address needs its interface")
    if key.multihop and key.interface:
        raise BadMessage(f"the session with {key.peer}: one over several hops has no interface")


def counted(counters: Mapping[str, int]) -> dict[str, int]:
    """Counters as a report has them: those that are not zero."""
    return {name: count for name, count in counters.items() if count}
