"""NLRI: prefixes as BGP carries them, a length octet and as many octets as it needs (RFC 4271 section 4.3).

Promises: inside the package an NLRI stays these bytes, a dictionary key that costs nothing to make; bits behind the
length are cleared, so equal prefixes of a family are equal bytes. Prefixes of two families may be equal bytes too.
Does not know: messages.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network

from bgp.wire.errors import NotificationError
from bgp.wire.families import Family, Prefix
from bgp.wire.iana import UpdateError

Nlri = bytes
"""A length octet and the prefix; with a path identifier it is what `identified` makes."""
ID_MARK = b"\xff"
ID_BYTES = 5
PATH_ID_BYTES = 4
"""On the wire, before each prefix (RFC 7911 section 3)."""
LONGEST = {Family.IPV4: 32, Family.IPV6: 128}
"""The longest prefix of each family, in bits."""


def _does_not_fit(why: str) -> NotificationError:
    return NotificationError(UpdateError.INVALID_NETWORK_FIELD, why)


def split(field: bytes, longest: int = LONGEST[Family.IPV4]) -> list[Nlri]:
    """The prefixes of a field. Raises NotificationError 3/10 when one is too long or runs past the end."""
    found: list[Nlri] = []
    offset, end = 0, len(field)
    while offset < end:
        length = field[offset]
        behind = offset + 1 + (length + 7) // 8
        if length > longest or behind > end:
            raise _does_not_fit(f"prefix of length {length} does not fit")
        prefix = field[offset:behind]
        if spare := -length % 8:
            last = prefix[-1] & (0xFF << spare)
            if last != prefix[-1]:
                prefix = prefix[:-1] + bytes([last & 0xFF])
        found.append(prefix)
        offset = behind
    return found


def split_identified(field: bytes, longest: int = LONGEST[Family.IPV4]) -> list[Nlri]:
    """`split` of a field in which a path identifier stands before each prefix (RFC 7911 section 3)."""
    found: list[Nlri] = []
    offset, end = 0, len(field)
    while offset < end:
        length = field[offset + 4] if offset + 4 < end else 0
        behind = offset + 5 + (length + 7) // 8
        if offset + 4 >= end:
            raise _does_not_fit("a path identifier has no prefix")
        (prefix,) = split(field[offset + 4 : behind], longest)
        found.append(identified(int.from_bytes(field[offset : offset + 4], "big"), prefix))
        offset = behind
    return found


def identified(path_id: int | None, prefix: Nlri) -> Nlri:
    """A prefix with the identifier of one of its paths, told apart by ID_MARK, with which no prefix begins."""
    return prefix if path_id is None else ID_MARK + path_id.to_bytes(4, "big") + prefix


def joined(keys: Sequence[Nlri]) -> bytes:
    """A field of these NLRI, all of them with a path identifier or none."""
    if keys and keys[0][:1] == ID_MARK:
        return b"".join([key[1:] for key in keys])
    return b"".join(keys)


def prefix_of(key: Nlri) -> Nlri:
    """The prefix of an NLRI, without a path identifier."""
    return key[ID_BYTES:] if key[:1] == ID_MARK else key


def path_id_of(key: Nlri) -> int | None:
    """The path identifier of an NLRI; None: it has none."""
    return int.from_bytes(key[1:ID_BYTES], "big") if key[:1] == ID_MARK else None


def by_path_id(keys: Sequence[Nlri]) -> list[tuple[int | None, Sequence[Nlri]]]:
    """NLRI grouped by path identifier; of two sessions of one peer some may have one and others none."""
    if not keys or max(keys) < ID_MARK:
        return [(None, keys)] if keys else []
    found: dict[int | None, list[Nlri]] = {}
    for key in keys:
        found.setdefault(path_id_of(key), []).append(key)
    return list(found.items())


def spans(prefixes: Collection[Nlri]) -> Iterator[tuple[int, bytes, bytes]]:
    """Of the prefixes of each length the first and the last octets: what holds of both holds of all in between."""
    first, last = min(prefixes), max(prefixes)
    if first[0] == last[0]:
        yield first[0], first[1:], last[1:]
        return
    some, at = sorted(prefixes), 0
    while at < len(some):
        length = some[at][0]
        end = bisect_left(some, bytes((length + 1,)), at)
        yield length, some[at][1:], some[end - 1][1:]
        at = end


def truncated(prefix: Nlri, length: int) -> Nlri:
    """The shorter prefix that holds this one."""
    octets = (length + 7) // 8
    shorter = bytes([length]) + prefix[1 : 1 + octets]
    if spare := -length % 8:
        return shorter[:-1] + bytes([shorter[-1] & 0xFF << spare & 0xFF])
    return shorter


def pack(prefix: Prefix) -> Nlri:
    """The NLRI of a prefix."""
    return bytes([prefix.prefixlen]) + prefix.network_address.packed[: (prefix.prefixlen + 7) // 8]


def unpack(nlri: Nlri, family: Family = Family.IPV4) -> Prefix:
    """The prefix behind an NLRI."""
    if family is Family.IPV4:
        return IPv4Network((int.from_bytes(nlri[1:].ljust(4, b"\0")), nlri[0]))
    return IPv6Network((nlri[1:].ljust(16, b"\0"), nlri[0]))
