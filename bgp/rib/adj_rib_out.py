"""Adj-RIB-Out: what one peer was sent and is still to be sent, packed into few UPDATEs (RFC 4271 sections 4.3, 9.2).

Promises: UPDATEs are made only when asked for, so a slow peer costs no memory for messages; a prefix that changes while
it waits is advertised once, with what holds then; what the peer has already is not sent again.
Does not know: sessions, which path is best, what may be exported.
RFC 2918, RFC 4724 sections 2 and 4.1, RFC 7313, RFC 7606 section 5.1.

How UPDATEs are packed: what waits lies in buckets, one per set of attributes and one for withdrawals, in the order in
which each was first used. `next_message` empties one bucket after the other, as many NLRI per UPDATE as fit, so the
number of messages depends on the number of attribute sets, not on the order in which prefixes changed. A prefix waits
in at most one bucket; a further change moves it, or removes it when the peer already has what it should.

How End-of-RIB waits: it is due once `end_of_rib` was called, everything that waited was sent, no walk is pending that
still puts in the whole table, and our restart deferral does not withhold it.
"""

from __future__ import annotations

from collections.abc import Iterator, Set

from bgp.rib.graceful_restart import RestartDeferral
from bgp.wire.attribute_codec import encode
from bgp.wire.attributes import Context, PathAttributes
from bgp.wire.families import UNICAST, Family
from bgp.wire.framing import HEADER_BYTES
from bgp.wire.messages import RouteRefresh, Subtype
from bgp.wire.multiprotocol import REACH_BYTES, UNREACH_BYTES, needs_reach
from bgp.wire.nlri import LONGEST, Nlri
from bgp.wire.update import Update

READVERTISED_AT_ONCE = 4096
"""Prefixes of a refresh that are put beside what waits."""
MOST_NLRI_BYTES = 16 << 10
"""NLRI of one UPDATE, whatever the peer takes (RFC 8654): more saves nothing, and an UPDATE is made in one go."""
LENGTH_FIELDS = 4
"""Octets of the two length fields of an UPDATE."""


class AdjRibOut:
    """The Adj-RIB-Out of one session and one family; it begins empty."""

    def __init__(self, family: Family = Family.IPV4, deferral: RestartDeferral | None = None) -> None:
        self.pending_walks = 0
        """How many walks still put the whole table in; End-of-RIB waits for them."""
        self._family = family
        self._deferral = deferral
        """What withholds our End-of-RIB; None: nothing does."""
        self._longest_nlri = 1 + LONGEST[family] // 8
        self._unsent_octets = 0
        """Octets of each NLRI that are not on the wire."""
        self._advertised: dict[Nlri, PathAttributes] = {}
        """What the peer has."""
        self._waiting: dict[Nlri, PathAttributes | None] = {}
        """Prefix -> its bucket; None: to be withdrawn."""
        self._buckets: dict[PathAttributes | None, dict[Nlri, None]] = {}
        self._end_of_rib_due = False
        self._end_of_rib_sent = False
        self._refresh_due = False
        """A marked refresh was asked for before End-of-RIB was sent."""
        self._marks: list[Subtype] = []
        """BoRR and EoRR of a refresh under way (RFC 7313) that are still to be sent."""
        self._unrefreshed: dict[Nlri, None] = {}
        """What a refresh has still to send again."""
        self._forced: set[Nlri] = set()
        """To be sent although the peer has it."""

    def __len__(self) -> int:
        """How many prefixes the peer has or will have."""
        advertised = self._advertised
        return len(advertised) + sum(
            (attributes is not None and prefix not in advertised) - (attributes is None)
            for prefix, attributes in self._waiting.items()
        )

    def __contains__(self, prefix: Nlri) -> bool:
        return prefix in self._advertised or self._waiting.get(prefix) is not None

    def __iter__(self) -> Iterator[Nlri]:
        """The prefixes that the peer has or may have."""
        return iter(self._advertised.keys() | self._waiting.keys())

    def known(self, prefixes: Set[Nlri]) -> set[Nlri]:
        """Of very many prefixes the few that the peer has or may have."""
        return (self._advertised.keys() & prefixes) | (self._waiting.keys() & prefixes)

    def set(self, prefix: Nlri, attributes: PathAttributes | None) -> None:
        """The peer should have the prefix with these attributes, or (None) not at all."""
        if prefix in self._waiting:
            self._leave_bucket(prefix)
        if self._advertised.get(prefix) != attributes or (prefix in self._forced and attributes is not None):
            self._waiting[prefix] = attributes
            self._buckets.setdefault(attributes, {})[prefix] = None

    def end_of_rib(self) -> None:
        """Send End-of-RIB once everything that waits now has been sent."""
        self._end_of_rib_due = True

    def readvertise(self, *, marked: bool = False) -> None:
        """Send everything again (RFC 2918); `marked`: between BoRR and EoRR, and not before End-of-RIB (RFC 7313)."""
        if marked and not self._end_of_rib_sent:
            self._refresh_due = True
            return
        if marked:
            self._marks = [Subtype.BEGIN, Subtype.END]
        self._unrefreshed = dict.fromkeys(self._advertised)

    def _readvertise_some(self) -> None:
        for _ in range(min(len(self._unrefreshed), READVERTISED_AT_ONCE)):
            prefix, _ = self._unrefreshed.popitem()
            if prefix in self._advertised:
                self._forced.add(prefix)
                self.set(prefix, self._waiting.get(prefix, self._advertised[prefix]))

    @property
    def is_waiting(self) -> bool:
        """Whether `next_message` would answer something."""
        return bool(self._waiting or self._unrefreshed or self._marks) or self._may_end

    @property
    def _may_end(self) -> bool:
        withheld = self._deferral is not None and self._deferral.is_restarting
        return self._end_of_rib_due and not self.pending_walks and not withheld

    def next_message(self, context: Context, largest_message: int) -> Update | RouteRefresh | None:
        """The next message: withdrawals first, then one set of attributes after the other, then End-of-RIB.

        What a marked refresh sends again stands between its two marks. `largest_message`: octets, header included.
        """
        if self._marks[:1] == [Subtype.BEGIN]:
            return self._mark()
        update = self._next_update(context, largest_message)
        return self._mark() if update is None and self._marks else update

    def _mark(self) -> RouteRefresh:
        return RouteRefresh(self._family, UNICAST, self._marks.pop(0))

    def _next_update(self, context: Context, largest_message: int) -> Update | None:
        room = largest_message - HEADER_BYTES - LENGTH_FIELDS
        unreach = UNREACH_BYTES if self._family is not Family.IPV4 else 0
        while self._unrefreshed and not self._buckets:
            self._readvertise_some()
        while self._buckets:
            if None in self._buckets:
                some = self._take(None, room - unreach)
                for prefix in some:
                    self._advertised.pop(prefix, None)
                return Update(some, family=self._family)
            attributes = next(iter(self._buckets))
            assert attributes is not None
            reach = REACH_BYTES if needs_reach(self._family, attributes) else 0
            left = room - reach - len(encode(attributes, context))
            if left < self._longest_nlri:
                self._give_up(attributes)
                continue
            some = self._take(attributes, left)
            self._advertised.update(dict.fromkeys(some, attributes))
            return Update((), attributes, some, family=self._family)
        if self._may_end:
            self._end_of_rib_due, self._end_of_rib_sent = False, True
            if self._refresh_due:
                self._refresh_due = False
                self.readvertise(marked=True)
            return Update(family=self._family)  # RFC 4724 section 2
        return None

    def _take(self, bucket: PathAttributes | None, room: int) -> tuple[Nlri, ...]:
        waiting, some, used, room = self._buckets[bucket], [], 0, min(room, MOST_NLRI_BYTES)
        for prefix in waiting:
            used += len(prefix) - self._unsent_octets
            if used > room:
                break
            some.append(prefix)
        for prefix in some:
            self._leave_bucket(prefix)
            if self._unrefreshed:
                self._unrefreshed.pop(prefix, None)
        self._forced.difference_update(some)
        return tuple(some)

    def _give_up(self, attributes: PathAttributes) -> None:
        """Attributes that leave no room for a prefix cannot be sent; the peer must then not keep older ones."""
        for prefix in list(self._buckets[attributes]):
            self.set(prefix, None)

    def _leave_bucket(self, prefix: Nlri) -> None:
        attributes = self._waiting.pop(prefix)
        bucket = self._buckets[attributes]
        del bucket[prefix]
        if not bucket:
            del self._buckets[attributes]
