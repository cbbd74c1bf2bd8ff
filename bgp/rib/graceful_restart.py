"""Graceful restart of a neighbour: which of its paths are stale, and until when (RFC 4724 section 4.2, RFC 8538).

Promises: the state belongs to the neighbour, not to a connection, so it survives any number of failed calls. Every
answer is the set of prefixes whose paths must go now. Does not know: RIBs, sessions.
"""

from __future__ import annotations

from collections.abc import Iterable

from bgp.wire.nlri import Nlri

LONGEST_TELLING_SECONDS = 360.0
"""How long a neighbour that came back may take to its End-of-RIB before what it did not tell again goes."""


class Staleness:
    """The stale paths of one neighbour."""

    def __init__(self) -> None:
        self._until: dict[Nlri, float] = {}
        """Stale prefix -> when it goes, counted from the first loss that made it stale."""
        self._earliest = 0.0
        """Nothing goes before it; looked for anew only when it has passed, as there may be very many."""
        self._telling_until: float | None = None
        """While the neighbour is back and still telling: by when it must have ended."""

    @property
    def prefixes(self) -> set[Nlri]:
        """The stale prefixes."""
        return set(self._until)

    def __contains__(self, prefix: Nlri) -> bool:
        return prefix in self._until

    def __bool__(self) -> bool:
        return bool(self._until)

    @property
    def deadline(self) -> float | None:
        """When `expired` is due."""
        if not self._until:
            return None
        return self._telling_until if self._telling_until is not None else self._earliest

    def session_lost(self, held: Iterable[Nlri], restart_seconds: int, now: float) -> set[Nlri]:
        """The session broke and its paths may stay.

        RFC 4724 lets a path go that was stale already, so that nobody keeps it for ever. Here it keeps its first
        deadline instead: a neighbour that is killed twice in a row loses nothing, one that never ends does.
        """
        self._telling_until = None
        at = now + restart_seconds
        self._earliest = min(self._earliest, at) if self._until else at
        for prefix in held:
            self._until.setdefault(prefix, at)
        return self.expired(now)

    def session_established(self, now: float, *, forwarding_preserved: bool) -> set[Nlri]:
        """The peer is back; `forwarding_preserved`: its F bit is set."""
        if not forwarding_preserved:
            return self.clear()
        self._telling_until = now + LONGEST_TELLING_SECONDS
        return set()

    def refreshed(self, prefixes: Iterable[Nlri]) -> set[Nlri]:
        """The neighbour spoke of these again; answers those that were stale until now."""
        if not self._until:
            return set()
        fresh = self._until.keys() & set(prefixes)
        for prefix in fresh:
            del self._until[prefix]
        return fresh

    def expired(self, now: float) -> set[Nlri]:
        """What goes because the neighbour took too long."""
        if self._telling_until is not None:
            return self.clear() if now >= self._telling_until else set()
        if now < self._earliest or not self._until:
            return set()
        gone = {prefix for prefix, at in self._until.items() if now >= at}
        for prefix in gone:
            del self._until[prefix]
        self._earliest = min(self._until.values(), default=0.0)
        return gone

    def clear(self) -> set[Nlri]:
        """End-of-RIB came, or nothing may be kept."""
        gone = set(self._until)
        self._until.clear()
        self._telling_until = None
        return gone
