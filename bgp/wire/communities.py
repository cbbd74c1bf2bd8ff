"""Communities as people write them: `65000:100`, `65000:1:2`, `no-export` (RFC 1997, RFC 8092); link bandwidth.

Promises: pure; a wrong text is a ValueError that says what is right. Does not know: which path has them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from math import isfinite

from bgp.wire.iana import WellKnown

NAMES = {one.name.lower().replace("_", "-"): int(one) for one in WellKnown}


def parse(text: str) -> int | bytes:
    """A community (a number) or a large community (its twelve octets). Raises ValueError."""
    if text.lower() in NAMES:
        return NAMES[text.lower()]
    parts = text.split(":")
    largest = {2: 0xFFFF, 3: 0xFFFFFFFF}.get(len(parts), -1)
    if not all(part.isascii() and part.isdigit() and int(part) <= largest for part in parts):
        raise ValueError(
            f"community {text!r}: must be AS:VALUE of 16 bits each, AS:VALUE:VALUE of 32 bits each, "
            f"or one of {', '.join(sorted(NAMES))}"
        )
    numbers = [int(part) for part in parts]
    if len(numbers) == 2:
        return numbers[0] << 16 | numbers[1]
    return struct.pack("!III", *numbers)


def format_community(community: int | bytes) -> str:
    """A community as text."""
    if isinstance(community, bytes):
        return ":".join(map(str, struct.unpack("!III", community)))
    for name, value in NAMES.items():
        if value == community:
            return name
    return f"{community >> 16}:{community & 0xFFFF}"


LINK_BANDWIDTH = 0x04
"""Sub-type of the extended community (draft-ietf-idr-link-bandwidth section 2)."""
_TWO_OCTET_AS = (0x40, 0x00)
"""Its type: non-transitive, or transitive as later drafts and other speakers have it."""


def link_bandwidth(extended_communities: Iterable[bytes]) -> float | None:
    """The octets per second that a path's first link bandwidth community says; None: there is none that makes sense.

    The value is a float of four octets. No number, infinity, and what is not above zero is as good as not said.
    """
    for one in extended_communities:
        if one[0] in _TWO_OCTET_AS and one[1] == LINK_BANDWIDTH:
            (width,) = struct.unpack("!f", one[4:8])
            if isfinite(width) and width > 0:
                return float(width)
    return None
