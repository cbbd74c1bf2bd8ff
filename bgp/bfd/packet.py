"""BFD control packets: octets and values (RFC 5880 section 4.1).

Promises: pure. What is not well formed is `Dropped` with the check it failed, one member for each check of section
6.8.6 that needs no session. Does not know: sessions, sockets. No authentication: who asks for it is dropped by name.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, StrEnum

VERSION = 1
_FORMAT = struct.Struct("!BBBBIIIII")
LENGTH = _FORMAT.size
"""Octets of a packet without authentication."""
LENGTH_AUTHENTICATED = LENGTH + 2
"""The least with an authentication section (type and length)."""
MULTIPOINT, DEMAND, AUTHENTICATION, INDEPENDENT, FINAL, POLL = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
"""Bits of the second octet."""


class State(IntEnum):
    """RFC 5880 section 4.1."""

    ADMIN_DOWN = 0
    DOWN = 1
    INIT = 2
    UP = 3


class Diagnostic(IntEnum):
    """Why the state changed last (RFC 5880 section 4.1)."""

    NONE = 0
    DETECTION_TIME_EXPIRED = 1
    ECHO_FAILED = 2
    NEIGHBOR_SIGNALED_DOWN = 3
    FORWARDING_PLANE_RESET = 4
    PATH_DOWN = 5
    CONCATENATED_PATH_DOWN = 6
    ADMINISTRATIVELY_DOWN = 7
    REVERSE_CONCATENATED_PATH_DOWN = 8


class Check(StrEnum):
    """What a received packet has failed; the name is a metric's label."""

    TTL = "ttl"
    """It came from further away than it may (RFC 5881 section 5, RFC 5082)."""
    SHORT = "short"
    """Less than the 24 octets of a packet."""
    VERSION = "version"
    LENGTH = "length"
    """The Length field is less than the least."""
    TRUNCATED = "truncated"
    """The Length field is more than there is."""
    MULTIPLIER = "multiplier"
    """Detect Mult is zero."""
    MULTIPOINT = "multipoint"
    MY_DISCRIMINATOR = "my_discriminator"
    """Zero."""
    YOUR_DISCRIMINATOR = "your_discriminator"
    """Zero, in a state that knows ours."""
    POLL_AND_FINAL = "poll_and_final"
    """Both bits, which section 6.5 forbids."""
    NO_SESSION = "no_session"
    """No session has this discriminator, or is with this address."""
    OTHER_ADDRESS = "other_address"
    """The session of this discriminator is with another address, or over another interface."""
    AUTHENTICATION = "authentication"
    """Authenticated: there is no key here (section 6.8.6: the A bit without bfd.AuthType)."""
    ADMIN_DOWN = "admin_down"
    """The session is administratively down here."""


class Dropped(Exception):
    """A received packet that counts for nothing; its argument is the check."""

    def __init__(self, check: Check) -> None:
        super().__init__(check.value)
        self.check = check


@dataclass(frozen=True, slots=True)
class ControlPacket:
    """One packet; intervals in microseconds."""

    state: State
    my_discriminator: int
    your_discriminator: int
    desired_min_tx: int
    required_min_rx: int
    multiplier: int
    diagnostic: int = Diagnostic.NONE
    """A number: who receives does not choose what others send."""
    poll: bool = False
    final: bool = False
    independent: bool = False
    """The C bit: BFD lives on when the control plane restarts."""
    demand: bool = False
    required_min_echo_rx: int = 0


def encode(packet: ControlPacket) -> bytes:
    """The octets of a packet."""
    flags = (
        packet.state << 6
        | POLL * packet.poll
        | FINAL * packet.final
        | INDEPENDENT * packet.independent
        | DEMAND * packet.demand
    )
    return _FORMAT.pack(
        VERSION << 5 | packet.diagnostic,
        flags,
        packet.multiplier,
        LENGTH,
        packet.my_discriminator,
        packet.your_discriminator,
        packet.desired_min_tx,
        packet.required_min_rx,
        packet.required_min_echo_rx,
    )


def decode(data: bytes) -> ControlPacket:
    """The packet in a datagram, by the checks of RFC 5880 section 6.8.6 in their order. Raises Dropped."""
    if len(data) < LENGTH:
        raise Dropped(Check.SHORT)
    first, flags, multiplier, length, mine, yours, tx, rx, echo = _FORMAT.unpack_from(data)
    authenticated = flags & AUTHENTICATION
    state, poll, final = State(flags >> 6), bool(flags & POLL), bool(flags & FINAL)
    for check, failed in (
        (Check.VERSION, first >> 5 != VERSION),
        (Check.LENGTH, length < (LENGTH_AUTHENTICATED if authenticated else LENGTH)),
        (Check.TRUNCATED, length > len(data)),
        (Check.MULTIPLIER, multiplier == 0),
        (Check.MULTIPOINT, flags & MULTIPOINT),
        (Check.MY_DISCRIMINATOR, mine == 0),
        (Check.YOUR_DISCRIMINATOR, yours == 0 and state not in (State.DOWN, State.ADMIN_DOWN)),
        (Check.AUTHENTICATION, authenticated),
        (Check.POLL_AND_FINAL, poll and final),
    ):
        if failed:
            raise Dropped(check)
    return ControlPacket(
        state=state,
        my_discriminator=mine,
        your_discriminator=yours,
        desired_min_tx=tx,
        required_min_rx=rx,
        multiplier=multiplier,
        diagnostic=first & 0x1F,
        poll=poll,
        final=final,
        independent=bool(flags & INDEPENDENT),
        demand=bool(flags & DEMAND),
        required_min_echo_rx=echo,
    )
