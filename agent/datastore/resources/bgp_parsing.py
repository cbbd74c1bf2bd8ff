"""The texts inside BGP resources as values: durations, communities, addresses with a port.

Promises: pure; a text that cannot be read raises ValueError with one sentence that says what was expected.
Does not know: which field a text came from.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address

from ipam.model import Address

Community = int | bytes
"""RFC 1997 as a number of 32 bits; RFC 8092 as its twelve octets."""

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}
_AMOUNT, _UNIT = r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+", "h|ms|m|s|us|µs|μs|ns"
_DURATION = re.compile(rf"\+?(?:0|(?:(?:{_AMOUNT})(?:{_UNIT}))+)")
_PART = re.compile(rf"({_AMOUNT})({_UNIT})")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")
LONGEST_TEXT = 64


def seconds(text: str) -> float:
    """A duration as Go takes it (time.ParseDuration): `90s`, `2m0s`, `1h30m`, `.5s`, `0`; but for negative ones."""
    if len(text) > LONGEST_TEXT or not _DURATION.fullmatch(text):
        raise ValueError(f"{text[:LONGEST_TEXT]!r} is not a duration, such as 90s or 2m")
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def community(text: str) -> Community:
    """`65000:100`, or a large one: `65000:100:200`."""
    parts = text.split(":") if len(text) <= LONGEST_TEXT else []
    if len(parts) not in (2, 3) or not all(_NUMBER.fullmatch(part) for part in parts):
        raise ValueError(f"{text[:LONGEST_TEXT]!r} is not a community, such as 65000:100 or 65000:100:200")
    numbers = [int(part) for part in parts]
    largest = 0xFFFF if len(numbers) == 2 else 0xFFFFFFFF
    if max(numbers) > largest:
        raise ValueError(f"{text!r}: each number of this community must be 0 to {largest}")
    if len(numbers) == 2:
        return numbers[0] << 16 | numbers[1]
    return b"".join(number.to_bytes(4, "big") for number in numbers)


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """Where a peer is."""

    address: Address
    port: int | None = None


def peer_address(text: str) -> PeerAddress:
    """`10.0.0.1`, `10.0.0.1:1790`, `fd00::1` or `[fd00::1]:1790`."""
    host, port = text, ""
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":") if port.startswith(":") else (port and "?")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
        port = port or "?"
    try:
        number = int(port) if port else None
        if number is not None and not (_NUMBER.fullmatch(port) and 0 < number <= 65535):
            raise ValueError
        return PeerAddress(ip_address(host), number)
    except ValueError:
        raise ValueError(
            f"{text[:LONGEST_TEXT]!r} is not an address, such as 10.0.0.1, 10.0.0.1:1790 or [fd00::1]:1790"
        ) from None
