"""What is told to a neighbour, packed into as few UPDATEs as fit (RFC 4271 section 4.3).

Promises: pure; no message is longer than 4096 octets. Does not know: sessions, what is worth telling.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address

from bgp.attributes import DEFAULT_LOCAL_PREF, Context, PathAttributes, encode, prepended
from bgp.framing import HEADER_BYTES, LARGEST_MESSAGE
from bgp.iana import Origin
from bgp.messages import Update
from bgp.nlri import Nlri

LENGTH_FIELDS = 4
"""The two length fields of an UPDATE."""


def originated(next_hop: IPv4Address, asn: int, *, internal: bool) -> PathAttributes:
    """The attributes of our own prefixes: iBGP has LOCAL_PREF and an empty path, eBGP our AS in the path."""
    if internal:
        return PathAttributes(Origin.IGP, (), next_hop, local_pref=DEFAULT_LOCAL_PREF)
    return PathAttributes(Origin.IGP, prepended((), asn), next_hop)


def announcements(prefixes: Iterable[Nlri], attributes: PathAttributes, context: Context) -> Iterator[Update]:
    """UPDATEs that announce prefixes with one set of attributes."""
    room = LARGEST_MESSAGE - HEADER_BYTES - LENGTH_FIELDS - len(encode(attributes, context))
    for some in _fitting(prefixes, room):
        yield Update((), attributes, some)


def withdrawals(prefixes: Iterable[Nlri]) -> Iterator[Update]:
    """UPDATEs that withdraw prefixes."""
    for some in _fitting(prefixes, LARGEST_MESSAGE - HEADER_BYTES - LENGTH_FIELDS):
        yield Update(some)


def _fitting(prefixes: Iterable[Nlri], room: int) -> Iterator[tuple[Nlri, ...]]:
    some: list[Nlri] = []
    used = 0
    for prefix in sorted(prefixes):
        if used + len(prefix) > room:
            yield tuple(some)
            some, used = [], 0
        some.append(prefix)
        used += len(prefix)
    if some:
        yield tuple(some)


END_OF_RIB = Update()
"""RFC 4724 section 2."""
