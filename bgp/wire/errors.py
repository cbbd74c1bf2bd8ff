"""Errors of the BGP package: the peer's carry the NOTIFICATION that answers them, or say what they cost (RFC 7606)."""

from __future__ import annotations

from enum import IntEnum

from bgp.wire.iana import CODES, Subcode


class BgpError(Exception):
    """Base of everything this package raises on purpose."""


class NotificationError(BgpError):
    """The peer broke the protocol: send this NOTIFICATION and close."""

    def __init__(self, subcode: Subcode, why: str, data: bytes = b"") -> None:
        self.code, self.subcode, self.data = CODES[type(subcode)], subcode, data
        super().__init__(f"{why} ({self.code}/{subcode})")


class Treatment(IntEnum):
    """What a malformed attribute costs, RFC 7606 section 2; the strongest of several wins."""

    DISCARD_ATTRIBUTE = 1
    TREAT_AS_WITHDRAW = 2


class MalformedAttribute(BgpError):
    """An attribute is malformed: the session survives; the attribute or the UPDATE's routes do not (RFC 7606)."""

    def __init__(self, treatment: Treatment, why: str) -> None:
        super().__init__(why)
        self.treatment = treatment


class ListenFailed(BgpError):
    """The listening port cannot be opened; the sentence names address and port."""
