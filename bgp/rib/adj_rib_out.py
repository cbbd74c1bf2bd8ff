"""Adj-RIB-Out: what one peer was told and is still to be told, packed into few UPDATEs (RFC 4271 sections 4.3, 9.2).

Promises: UPDATEs are made only when asked for, so a slow peer costs no memory for messages; a prefix that changes while
it waits is told once, with what holds then; what the peer has already is not told again.
Does not know: sessions, what is worth telling.
"""

from __future__ import annotations

from collections.abc import Iterator, Set

from bgp.wire.attribute_codec import encode
from bgp.wire.attributes import Context, PathAttributes
from bgp.wire.families import UNICAST, Family
from bgp.wire.framing import HEADER_BYTES
from bgp.wire.messages import RouteRefresh, Subtype
from bgp.wire.multiprotocol import REACH_BYTES, UNREACH_BYTES
from bgp.wire.nlri import LONGEST, Nlri
from bgp.wire.update import Update

REPEATED_AT_ONCE = 4096
"""Prefixes of a refresh that are put beside what waits."""
MOST_NLRI_BYTES = 16 << 10
"""Of one UPDATE, whatever the peer takes (RFC 8654): more saves nothing, and it is made in one go."""
LENGTH_FIELDS = 4
"""The two length fields of an UPDATE."""


class AdjRibOut:
    """One session's, of one family; it begins empty."""

    def __init__(self, family: Family = Family.IPV4) -> None:
        self._family = family
        self._longest_nlri = 1 + LONGEST[family] // 8
        self._told: dict[Nlri, PathAttributes] = {}
        self._waiting: dict[Nlri, PathAttributes | None] = {}
        """Prefix -> its bucket; None: to be withdrawn."""
        self._buckets: dict[PathAttributes | None, dict[Nlri, None]] = {}
        self._end_of_rib_due = False
        self._has_ended = False
        self._repeat_due = False
        self._marks: list[Subtype] = []
        """Of a refresh under way (RFC 7313), those still to be told."""
        self._again: dict[Nlri, None] = {}
        """Still to be repeated."""
        self._forced: set[Nlri] = set()
        """To be told although the peer has it."""
        self.pending_walks = 0
        """How many chores tell everything; End-of-RIB waits for them."""

    def __len__(self) -> int:
        """How many prefixes the peer has or will have."""
        told = self._told
        return len(told) + sum(
            (attributes is not None and prefix not in told) - (attributes is None)
            for prefix, attributes in self._waiting.items()
        )

    def __contains__(self, prefix: Nlri) -> bool:
        return prefix in self._told or self._waiting.get(prefix) is not None

    def known(self, prefixes: Set[Nlri]) -> set[Nlri]:
        """Of very many prefixes the few that the peer has or may have."""
        return (self._told.keys() & prefixes) | (self._waiting.keys() & prefixes)

    def __iter__(self) -> Iterator[Nlri]:
        """The prefixes that the peer has or may have."""
        return iter(self._told.keys() | self._waiting.keys())

    def set(self, prefix: Nlri, attributes: PathAttributes | None) -> None:
        """The peer should know the prefix with these attributes, or (None) not at all."""
        if prefix in self._waiting:
            self._leave_bucket(prefix)
        if self._told.get(prefix) != attributes or (prefix in self._forced and attributes is not None):
            self._waiting[prefix] = attributes
            self._buckets.setdefault(attributes, {})[prefix] = None

    def end_of_rib(self) -> None:
        """Tell End-of-RIB once everything that waits now has been told."""
        self._end_of_rib_due = True

    def readvertise(self, *, marked: bool = False) -> None:
        """Tell everything again (RFC 2918); `marked`: between two marks, and not before End-of-RIB (RFC 7313)."""
        if marked and not self._has_ended:
            self._repeat_due = True
            return
        if marked:
            self._marks = [Subtype.BEGIN, Subtype.END]
        self._again = dict.fromkeys(self._told)

    def _repeat_some(self) -> None:
        for _ in range(min(len(self._again), REPEATED_AT_ONCE)):
            prefix, _ = self._again.popitem()
            if prefix in self._told:
                self._forced.add(prefix)
                self.set(prefix, self._waiting.get(prefix, self._told[prefix]))

    @property
    def is_waiting(self) -> bool:
        """Whether `next_message` would answer something."""
        if self._waiting or self._again or self._marks:
            return True
        return self._end_of_rib_due and not self.pending_walks

    def next_message(self, context: Context, largest_message: int) -> Update | RouteRefresh | None:
        """The next one: withdrawals first, then one set of attributes after the other, then End-of-RIB.

        What is repeated stands between its two marks.
        """
        if self._marks[:1] == [Subtype.BEGIN]:
            return self._mark()
        update = self._next_update(context, largest_message)
        return self._mark() if update is None and self._marks else update

    def _mark(self) -> RouteRefresh:
        return RouteRefresh(self._family, UNICAST, self._marks.pop(0))

    def _next_update(self, context: Context, largest_message: int) -> Update | None:
        room = largest_message - HEADER_BYTES - LENGTH_FIELDS
        reach, unreach = (REACH_BYTES, UNREACH_BYTES) if self._family is not Family.IPV4 else (0, 0)
        while self._again and not self._buckets:
            self._repeat_some()
        while self._buckets:
            if None in self._buckets:
                some = self._take(None, room - unreach)
                self._forced.difference_update(some)
                for prefix in some:
                    self._told.pop(prefix, None)
                return Update(some, family=self._family)
            attributes = next(iter(self._buckets))
            assert attributes is not None
            left = room - reach - len(encode(attributes, context))
            if left < self._longest_nlri:
                self._give_up(attributes)
                continue
            some = self._take(attributes, left)
            self._forced.difference_update(some)
            self._told.update(dict.fromkeys(some, attributes))
            return Update((), attributes, some, family=self._family)
        if self._end_of_rib_due and not self.pending_walks:
            self._end_of_rib_due, self._has_ended = False, True
            if self._repeat_due:
                self._repeat_due = False
                self.readvertise(marked=True)
            return Update(family=self._family)  # RFC 4724 section 2
        return None

    def _take(self, bucket: PathAttributes | None, room: int) -> tuple[Nlri, ...]:
        waiting, some, used, room = self._buckets[bucket], [], 0, min(room, MOST_NLRI_BYTES)
        for prefix in waiting:
            used += len(prefix)
            if used > room:
                break
            some.append(prefix)
        for prefix in some:
            self._leave_bucket(prefix)
            if self._again:
                self._again.pop(prefix, None)
        return tuple(some)

    def _give_up(self, attributes: PathAttributes) -> None:
        """Attributes that leave no room for a prefix cannot be told; the peer must then not keep older ones."""
        for prefix in list(self._buckets[attributes]):
            self.set(prefix, None)

    def _leave_bucket(self, prefix: Nlri) -> None:
        attributes = self._waiting.pop(prefix)
        bucket = self._buckets[attributes]
        del bucket[prefix]
        if not bucket:
            del self._buckets[attributes]
