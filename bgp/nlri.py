"""Prefixes as BGP carries them: a length octet and as many octets as it needs (RFC 4271 section 4.3).

Promises: inside the package an NLRI stays these bytes, a dictionary key that costs nothing to make; bits behind the
length are cleared, so equal prefixes are equal bytes. Does not know: messages.
"""

from __future__ import annotations

from ipaddress import IPv4Network

from bgp.errors import NotificationError
from bgp.iana import Error, UpdateError

Nlri = bytes
LONGEST_IPV4 = 32


def split(field: bytes) -> list[Nlri]:
    """The prefixes of a field. Raises NotificationError 3/10 when one is too long or runs past the end."""
    found: list[Nlri] = []
    offset, end = 0, len(field)
    while offset < end:
        length = field[offset]
        behind = offset + 1 + (length + 7) // 8
        if length > LONGEST_IPV4 or behind > end:
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


def pack(prefix: IPv4Network) -> Nlri:
    """A prefix as NLRI."""
    return bytes([prefix.prefixlen]) + prefix.network_address.packed[: (prefix.prefixlen + 7) // 8]


def unpack(nlri: Nlri) -> IPv4Network:
    """The prefix behind an NLRI."""
    return IPv4Network((nlri[1:].ljust(4, b"\0"), nlri[0]))
