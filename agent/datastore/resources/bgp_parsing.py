"""The texts inside BGP resources as values: durations, communities, addresses with a port.

Promises: pure; a text that cannot be read raises ValueError with one sentence that says what was expected.
Does not know: which field a text came from.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address

from bgp.wire.families import zone_of
from ipam.model import Address

Community = int | bytes
"""RFC 1997 as a number of 32 bits; RFC 8092 as its twelve octets."""

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}
_AMOUNT, _UNIT = r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+", "h|ms|m|s|us|µs|μs|ns"
_DURATION = re.compile(rf"\+?(?:0|(?:(?:{_AMOUNT})(?:{_UNIT}))+)")
_PART = re.compile(rf"({_AMOUNT})({_UNIT})")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")
LONGEST_TEXT = 64
ROUNDING = 1e-6
"""Of a millisecond: what a sum of parts may be off as a float."""
_INTERFACE = re.compile(r"[^\s/%:\x00-\x1f\x7f]{1,15}")
"""A name as the kernel takes it (net/core/dev.c, dev_valid_name), without what would end it in other texts."""
WORKLOADS = "cali"
"""What the names of the host's sides of pods begin with."""
TUNNELS = frozenset({"tunl0", "vxlan.calico", "vxlan-v6.calico"})


def seconds(text: str) -> float:
    """A duration as Go takes it (time.ParseDuration): `90s`, `2m0s`, `1h30m`, `.5s`, `0`; but for negative ones."""
    if len(text) > LONGEST_TEXT or not _DURATION.fullmatch(text):
        raise ValueError(f"{text[:LONGEST_TEXT]!r} is not a duration, such as 90s or 2m")
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def milliseconds(text: str) -> int:
    """A duration of whole milliseconds, at least one."""
    found = seconds(text) * 1000
    if found < 1 or abs(found - round(found)) > ROUNDING:
        raise ValueError(f"{text!r} must be whole milliseconds, one at least")
    return round(found)


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
    """`10.0.0.1`, `10.0.0.1:1790`, `fd00::1`, `[fd00::1]:1790`, `fe80::1%eth1` or `[fe80::1%eth1]:179`.

    A link-local address means nothing without its interface, and another one nothing more with it (RFC 4007).
    """
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
        found = PeerAddress(ip_address(host), number)
    except ValueError:
        raise ValueError(
            f"{text[:LONGEST_TEXT]!r} is not an address, such as 10.0.0.1, 10.0.0.1:1790 or [fd00::1]:1790"
        ) from None
    _check_zone(found.address)
    return found


def _check_zone(address: Address) -> None:
    zone = zone_of(address)
    if not zone and address.version == 6 and address.is_link_local:
        raise ValueError(f"{address} is link-local: name its interface, as in {address}%eth1")
    if zone and not address.is_link_local:
        raise ValueError(
            f"{address}: only a link-local address has an interface; leave %{zone[:LONGEST_TEXT]} out"
        )
    if zone and not _INTERFACE.fullmatch(zone):
        raise ValueError(f"{zone[:LONGEST_TEXT]!r} is no interface's name")
    if zone.startswith(WORKLOADS) or zone in TUNNELS or zone == "lo":
        raise ValueError(
            f"{zone} leads to this node's pods, or through a tunnel: no router is a neighbour there"
        )
