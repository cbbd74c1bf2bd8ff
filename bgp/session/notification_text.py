"""NOTIFICATION codes in words for the operator (RFC 4271 section 4.5, RFC 4486, RFC 9003). Knows nothing else."""

from __future__ import annotations

from bgp.wire.iana import SUBCODES, Cease, Error, OpenError
from bgp.wire.messages import Notification


def words(name: str) -> str:
    """The name of a code or an event as words."""
    return name.replace("_", " ").lower()


def describe_notification(notification: Notification) -> str:
    """A NOTIFICATION as one line, with the shutdown communication of RFC 9003 where there is one."""
    code, subcode = notification.code, notification.subcode
    if (code, subcode) == (Error.CEASE, Cease.HARD_RESET) and len(notification.data) >= 2:
        # RFC 8538 section 3: the reason is inside.
        inner = Notification(notification.data[0], notification.data[1], notification.data[2:])
        is_nested = inner.subcode == Cease.HARD_RESET
        return "hard reset (6/9)" if is_nested else f"hard reset: {describe_notification(inner)}"
    try:
        kind = Error(code)
    except ValueError:
        return f"error {code}/{subcode}"
    names = SUBCODES.get(kind)
    detail = ""
    if names is not None and subcode in names.__members__.values():
        detail = f", {words(names(subcode).name)}"
    text = shutdown_text(notification)
    return f"{words(kind.name)}{detail} ({code}/{subcode})" + (f": {text}" if text else "")


_SECTIONS: dict[int, str] = {
    Error.MESSAGE_HEADER: "RFC 4271 section 6.1",
    Error.OPEN_MESSAGE: "RFC 4271 section 6.2",
    Error.UPDATE_MESSAGE: "RFC 4271 section 6.3",
    Error.HOLD_TIMER_EXPIRED: "RFC 4271 section 6.5",
    Error.FINITE_STATE_MACHINE: "RFC 6608",
    Error.CEASE: "RFC 4486",
    Error.ROUTE_REFRESH_MESSAGE: "RFC 7313 section 5",
    Error.SEND_HOLD_TIMER_EXPIRED: "RFC 9687",
}
_OTHER_SECTIONS: dict[tuple[int, int], str] = {
    (Error.OPEN_MESSAGE, OpenError.UNSUPPORTED_CAPABILITY): "RFC 5492 section 5",
    (Error.CEASE, Cease.HARD_RESET): "RFC 8538 section 3",
    (Error.CEASE, Cease.BFD_DOWN): "RFC 9384",
    (Error.CEASE, Cease.ADMINISTRATIVE_SHUTDOWN): "RFC 9003",
    (Error.CEASE, Cease.ADMINISTRATIVE_RESET): "RFC 9003",
}


def where_defined(notification: Notification) -> str:
    """Where a code is defined; empty when we do not know it."""
    other = _OTHER_SECTIONS.get((notification.code, notification.subcode))
    return _SECTIONS.get(notification.code, "") if other is None else other


def shutdown_text(notification: Notification) -> str:
    """RFC 9003: a length octet and UTF-8; what is malformed is shown as nothing."""
    if notification.code != Error.CEASE or notification.subcode not in _WITH_TEXT or not notification.data:
        return ""
    length = notification.data[0]
    text = notification.data[1 : 1 + length].decode("utf-8", "replace")
    return "".join(letter for letter in text if letter.isprintable())


def shutdown_data(text: str) -> bytes:
    """The data of a Cease with a text, cut at a whole character."""
    packed = text.encode()[:LONGEST_TEXT].decode("utf-8", "ignore").encode()
    return bytes([len(packed)]) + packed if packed else b""


LONGEST_TEXT = 255
"""RFC 9003 section 2, in octets."""
_WITH_TEXT = (Cease.ADMINISTRATIVE_SHUTDOWN, Cease.ADMINISTRATIVE_RESET)
