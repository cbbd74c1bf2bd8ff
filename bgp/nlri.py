"""Prefixes as BGP carries them: a length octet and as many octets as it needs (RFC 4271 section 4.3).

Promises: inside the package an NLRI stays these bytes, a dictionary key that costs nothing to make; bits behind the
length are cleared, so equal prefixes of a family are equal bytes. Prefixes of two families may be equal bytes too.
Does not know: messages.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

from bgp.errors import NotificationError
from bgp.families import Family, Prefix
from bgp.iana import Error, UpdateError

Nlri = bytes
LONGEST = {Family.IPV4: 32, Family.IPV6: 128}
"""Bits of a prefix."""


def split(field: bytes, longest: int = LONGEST[Family.IPV4]) -> list[Nlri]:
    """The prefixes of a field. Raises NotificationError 3/10 when one is too long or runs past the end."""
    found: list[Nlri] = []
    offset, end = 0, len(field)
    while offset < end:
        length = field[offset]
        behind = offset + 1 + (length + 7) // 8
        if length > longest or behind > end:
            raise NotificationError(
                Error.UPDATE_MESSAGE,
                UpdateError.INVALID_NETWORK_FIELD,
                f"prefix of length {length} does not fit",
            )
        prefix = field[offset:behind]
        if spare := -length % 8:
            last = prefix[-1] & (0xFF << spare)
            if last != prefix[-1]:
                prefix = prefix[:-1] + bytes([last & 0xFF])
        found.append(prefix)
        offset = behind
    return found


def pack(prefix: Prefix) -> Nlri:
    """A prefix as NLRI."""
    return bytes([prefix.prefixlen]) + prefix.network_address.packed[: (prefix.prefixlen + 7) // 8]


def unpack(nlri: Nlri, family: Family = Family.IPV4) -> Prefix:
    """The prefix behind an NLRI."""
    if family is Family.IPV4:
        return IPv4Network((nlri[1:].ljust(4, b"\0"), nlri[0]))
    return IPv6Network((nlri[1:].ljust(16, b"\0"), nlri[0]))
