"""Four-octet AS numbers through a speaker that knows two octets (RFC 6793 section 4.2.3).

Promises: pure; malformed AS4 attributes are dropped, never more (RFC 6793 section 6). Does not know: attribute blocks.
"""

from __future__ import annotations

from bgp.wire.iana import SegmentType

Segments = tuple[tuple[int, tuple[int, ...]], ...]


def _count(path: Segments) -> int:
    """AS numbers as the decision process counts them."""
    return sum(len(numbers) if kind == SegmentType.AS_SEQUENCE else 1 for kind, numbers in path)


def merged(old: Segments, new: Segments | None, aggregator_is_old: bool) -> Segments:
    """The real AS_PATH: the head of AS_PATH, which old speakers prepended to, and AS4_PATH.

    `aggregator_is_old`: AGGREGATOR names an AS other than AS_TRANS although AS4_AGGREGATOR is there, so an old speaker
    aggregated on the way and both AS4 attributes tell of an earlier route.
    """
    if new is None or aggregator_is_old:
        return old
    surplus = _count(old) - _count(new)
    if surplus < 0:
        return old
    head: list[tuple[int, tuple[int, ...]]] = []
    for kind, numbers in old:
        if surplus <= 0:
            break
        taken = numbers[:surplus] if kind == SegmentType.AS_SEQUENCE else numbers
        head.append((kind, taken))
        surplus -= len(taken) if kind == SegmentType.AS_SEQUENCE else 1
    return _joined(tuple(head), new)


def _joined(head: Segments, tail: Segments) -> Segments:
    if (
        head
        and tail
        and head[-1][0] == tail[0][0] == SegmentType.AS_SEQUENCE
        and len(head[-1][1] + tail[0][1]) <= 255
    ):
        return (*head[:-1], (SegmentType.AS_SEQUENCE, head[-1][1] + tail[0][1]), *tail[1:])
    return (*head, *tail)


def needs_as4(path: Segments) -> bool:
    """Whether an old speaker would see AS_TRANS in the path."""
    return any(number > 0xFFFF for _, numbers in path for number in numbers)
