"""MP_REACH_NLRI and MP_UNREACH_NLRI (RFC 4760), as far as IPv4 unicast goes: other families were not agreed.

Promises: what is malformed is a NotificationError 3/9 (RFC 7606 section 5.3: its prefixes cannot be found, so nothing
less helps); a family that was not agreed is said, and skipped. Does not know: the rest of an UPDATE.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from bgp import nlri
from bgp.errors import NotificationError
from bgp.iana import Error, UpdateError
from bgp.nlri import Nlri

IPV4_UNICAST = (1, 1)
SHORTEST_REACH, SHORTEST_UNREACH = 5, 3


@dataclass(frozen=True, slots=True)
class Reach:
    """What MP_REACH_NLRI announces."""

    next_hop: IPv4Address
    prefixes: list[Nlri]


def _wrong(why: str) -> NotificationError:
    return NotificationError(Error.UPDATE_MESSAGE, UpdateError.OPTIONAL_ATTRIBUTE, why)


def _prefixes(field: bytes, name: str) -> list[Nlri]:
    try:
        return nlri.split(field)
    except NotificationError as error:
        raise _wrong(f"{name}: {error}") from error


def _family(value: bytes) -> tuple[int, int]:
    return int.from_bytes(value[:2], "big"), value[2]


def reach(value: bytes) -> Reach | str:
    """Read MP_REACH_NLRI; a sentence when its family is not ours. Raises NotificationError."""
    if len(value) < SHORTEST_REACH:
        raise _wrong(f"MP_REACH_NLRI has {len(value)} octets")
    end = 4 + value[3]
    if end >= len(value):
        raise _wrong("the next hop in MP_REACH_NLRI runs past it")
    family = _family(value)
    if family != IPV4_UNICAST:
        return f"MP_REACH_NLRI of family {family}, which was not agreed"
    if value[3] != 4:
        raise _wrong(f"the next hop in MP_REACH_NLRI has {value[3]} octets")
    return Reach(IPv4Address(value[4:8]), _prefixes(value[end + 1 :], "MP_REACH_NLRI"))


def unreach(value: bytes) -> list[Nlri] | str:
    """Read MP_UNREACH_NLRI; a sentence when its family is not ours. Raises NotificationError."""
    if len(value) < SHORTEST_UNREACH:
        raise _wrong(f"MP_UNREACH_NLRI has {len(value)} octets")
    family = _family(value)
    if family != IPV4_UNICAST:
        return f"MP_UNREACH_NLRI of family {family}, which was not agreed"
    return _prefixes(value[3:], "MP_UNREACH_NLRI")
