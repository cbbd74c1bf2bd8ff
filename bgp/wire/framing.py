"""Cuts a byte stream into messages, and frames them (RFC 4271 section 4.1).

Promises: a wrong header is answered from its 19 octets alone, without waiting for a body; the buffer never holds more
than one message that is not whole. Does not know: what a body means.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from bgp.wire.errors import NotificationError
from bgp.wire.iana import HeaderError, MessageType

MARKER = b"\xff" * 16
HEADER_BYTES = 19
TYPE_AT = 18
"""Where in a message its type stands."""
LARGEST_MESSAGE = 4096
LARGEST_EXTENDED = 65535
"""Octets of an extended message (RFC 8654)."""
NEVER_EXTENDED = (MessageType.OPEN, MessageType.KEEPALIVE)
"""Messages that are never extended (RFC 8654 section 3)."""
SHORTEST = {
    MessageType.OPEN: 29,
    MessageType.UPDATE: 23,
    MessageType.NOTIFICATION: 21,
    MessageType.KEEPALIVE: 19,
    MessageType.ROUTE_REFRESH: 23,
}


class Framing:
    """Cuts a byte stream into (type, body)."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.largest = LARGEST_MESSAGE
        """Raised by the session once both sides can do extended messages (RFC 8654)."""

    def receive(self, data: bytes) -> Iterator[tuple[MessageType, bytes]]:
        """The messages that `data` completes, one by one. Raises NotificationError 1/x at the first wrong header."""
        self._buffer += data
        buffer, offset = self._buffer, 0
        try:
            while len(buffer) - offset >= HEADER_BYTES:
                kind, length = _header(bytes(buffer[offset : offset + HEADER_BYTES]), self.largest)
                if len(buffer) - offset < length:
                    break
                body = bytes(buffer[offset + HEADER_BYTES : offset + length])
                offset += length
                yield kind, body
        finally:
            del buffer[:offset]


def _header(header: bytes, largest: int) -> tuple[MessageType, int]:
    if header[:16] != MARKER:
        raise NotificationError(HeaderError.NOT_SYNCHRONIZED, "the marker is not all ones")
    length, kind = int.from_bytes(header[16:18], "big"), header[18]
    bad_length = NotificationError(
        HeaderError.BAD_LENGTH, f"a message of type {kind} has length {length}", header[16:18]
    )
    if not HEADER_BYTES <= length <= (largest if kind not in NEVER_EXTENDED else LARGEST_MESSAGE):
        raise bad_length
    if kind not in SHORTEST:
        raise NotificationError(HeaderError.BAD_TYPE, f"message type {kind} is not known", header[18:])
    if length < SHORTEST[MessageType(kind)] or (kind == MessageType.KEEPALIVE and length != HEADER_BYTES):
        raise bad_length
    return MessageType(kind), length


def frame(kind: MessageType, body: bytes) -> bytes:
    """A whole message: the header in front of a body."""
    return MARKER + struct.pack("!HB", HEADER_BYTES + len(body), kind) + body
