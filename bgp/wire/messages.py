"""BGP messages: bytes to values and back (RFC 4271 section 4).

Promises: decoding raises only NotificationError; what an UPDATE's faults cost is already decided (RFC 7606).
Does not know: sessions, timers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address

from bgp.wire import capabilities, update
from bgp.wire.attribute_codec import Decoded
from bgp.wire.attributes import Context
from bgp.wire.capabilities import Capabilities
from bgp.wire.errors import NotificationError
from bgp.wire.framing import HEADER_BYTES, LARGEST_MESSAGE, Framing, frame
from bgp.wire.iana import AS_TRANS, VERSION, Error, MessageType, OpenError, RefreshError
from bgp.wire.update import LONGEST_INTERNED
from bgp.wire.update import Update as Update


@dataclass(frozen=True, slots=True)
class Open:
    """OPEN (RFC 4271 section 4.2); `asn` is the real one, whatever fits into two octets."""

    asn: int
    hold_seconds: int
    router_id: IPv4Address
    offer: Capabilities


@dataclass(frozen=True, slots=True)
class Notification:
    """NOTIFICATION (RFC 4271 section 4.5)."""

    code: int
    subcode: int
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Keepalive:
    """KEEPALIVE (RFC 4271 section 4.4)."""


class Subtype(IntEnum):
    """What a ROUTE-REFRESH means where both sides offered RFC 7313."""

    REQUEST = 0
    BEGIN = 1
    END = 2


@dataclass(frozen=True, slots=True)
class RouteRefresh:
    """ROUTE-REFRESH (RFC 2918, RFC 7313)."""

    afi: int = 1
    safi: int = 1
    subtype: int = Subtype.REQUEST


UNSPECIFIC_CEASE = Notification(Error.CEASE, 0)
"""For what no subcode fits (RFC 4271 section 4.5)."""
Message = Open | Update | Notification | Keepalive | RouteRefresh


MOST_INTERNED = 8_192
"""Attribute blocks remembered per connection; with more the memory starts anew."""
MOST_INTERNED_OCTETS = 1 << 20
"""The same for their octets together: what they say takes some ten times as much, and each connection may have it."""


class Decoder:
    """The octets of one connection, as messages: the one way in for what a peer sends.

    The octets pass framing, then the codec of their message, each once. Attribute blocks are remembered by their
    octets, so that equal blocks become one value, which all their prefixes share.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        """What the next message is read by; the session replaces it once both OPENs are known."""
        self.received: dict[str, int] = {}
        """Messages received, by kind."""
        self.framing = Framing()
        self._interned: dict[bytes, Decoded] = {}

    def receive(self, data: bytes) -> Iterator[Message]:
        """The messages that `data` completes, one by one. Raises NotificationError at the first wrong one."""
        blocks = len(self._interned)
        if blocks > MOST_INTERNED or (
            blocks * LONGEST_INTERNED > MOST_INTERNED_OCTETS
            and sum(map(len, self._interned)) > MOST_INTERNED_OCTETS
        ):
            self._interned.clear()
        for kind, body in self.framing.receive(data):
            self.received[kind.name] = self.received.get(kind.name, 0) + 1
            yield decode(kind, body, self.context, self._interned)


def encode(message: Message, context: Context) -> bytes:
    """The octets of a message, header included."""
    match message:
        case Open(asn, hold, router_id, offer):
            parameters = capabilities.encode(offer)
            short = asn if asn <= 0xFFFF else AS_TRANS
            head = struct.pack("!BHH4sB", VERSION, short, hold, router_id.packed, len(parameters))
            return frame(MessageType.OPEN, head + parameters)
        case Update():
            return frame(MessageType.UPDATE, update.encode(message, context))
        case Notification(code, subcode, data):
            room = LARGEST_MESSAGE - HEADER_BYTES - 2
            return frame(MessageType.NOTIFICATION, bytes([code, subcode]) + data[:room])
        case Keepalive():
            return frame(MessageType.KEEPALIVE, b"")
        case RouteRefresh(afi, safi, subtype):
            return frame(MessageType.ROUTE_REFRESH, struct.pack("!HBB", afi, subtype, safi))


def decode(
    kind: MessageType, body: bytes, context: Context, interned: dict[bytes, Decoded] | None = None
) -> Message:
    """The message behind a body. Raises NotificationError.

    `interned` remembers attribute blocks by their bytes, so that equal blocks become one value; its owner bounds it.
    """
    match kind:
        case MessageType.OPEN:
            return _open(body)
        case MessageType.UPDATE:
            return update.decode(body, context, {} if interned is None else interned)
        case MessageType.NOTIFICATION:
            return Notification(body[0], body[1], body[2:])
        case MessageType.KEEPALIVE:
            return Keepalive()
        case MessageType.ROUTE_REFRESH:
            return _route_refresh(body)


def _route_refresh(body: bytes) -> RouteRefresh:
    if body[2] in (Subtype.BEGIN, Subtype.END) and len(body) != 4:  # RFC 7313 section 5
        why = f"a ROUTE-REFRESH of subtype {body[2]} with {len(body)} octets"
        whole = frame(MessageType.ROUTE_REFRESH, body)
        raise NotificationError(RefreshError.INVALID_LENGTH, why, whole)
    return RouteRefresh(int.from_bytes(body[:2], "big"), body[3], body[2])


def _open(body: bytes) -> Open:
    version, asn, hold, router_id, length = struct.unpack_from("!BHH4sB", body)
    if version != VERSION:
        ours = struct.pack("!H", VERSION)
        raise NotificationError(OpenError.UNSUPPORTED_VERSION, f"BGP version {version}", ours)
    parameters = body[10:]
    extended = length != 0 and parameters[:1] == b"\xff"  # RFC 9072 section 2: whatever the length says
    if not extended and length != len(parameters):
        raise NotificationError(OpenError.UNSPECIFIC, "the optional parameters have another length")
    if hold in (1, 2):
        raise NotificationError(OpenError.UNACCEPTABLE_HOLD_TIME, f"hold time {hold}")
    if not any(router_id):
        raise NotificationError(OpenError.BAD_BGP_IDENTIFIER, "BGP identifier 0.0.0.0")
    offer = capabilities.decode(parameters)
    real = offer.four_octet_as if offer.four_octet_as is not None else asn
    if real == 0 or asn == 0:
        raise NotificationError(OpenError.BAD_PEER_AS, "AS 0 (RFC 7607)")
    return Open(real, hold, IPv4Address(router_id), offer)
