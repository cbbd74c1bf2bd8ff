"""Graceful restart of a neighbour: which of its paths are stale, and until when (RFC 4724 section 4.2, RFC 8538).

Promises: the state belongs to the neighbour, not to a connection, so it survives any number of failed calls. Every
answer is the set of prefixes whose paths must go now. Does not know: RIBs, sessions.
"""

from __future__ import annotations

from collections.abc import Iterable

from bgp.nlri import Nlri

LONGEST_TELLING_SECONDS = 360.0
"""How long a neighbour that came back may take to its End-of-RIB before what it did not tell again goes."""


class Staleness:
    """The stale paths of one neighbour."""

    def __init__(self) -> None:
        self.prefixes: set[Nlri] = set()
        self.deadline: float | None = None

    def lost(self, held: Iterable[Nlri], restart_seconds: int, now: float) -> set[Nlri]:
        """The session broke and its paths may stay. A path that was stale already goes: RFC 4724 asks for that."""
        gone = self.prefixes
        self.prefixes = set(held) - gone
        self.deadline = now + restart_seconds if self.prefixes else None
        return gone

    def returned(self, now: float, *, kept: bool) -> set[Nlri]:
        """The neighbour is back; `kept`: it says that it kept forwarding (F bit)."""
        if not kept:
            return self.clear()
        self.deadline = now + LONGEST_TELLING_SECONDS if self.prefixes else None
        return set()

    def told(self, prefixes: Iterable[Nlri]) -> set[Nlri]:
        """The neighbour spoke of these again; answers those that were stale until now."""
        if not self.prefixes:
            return set()
        fresh = self.prefixes.intersection(prefixes)
        self.prefixes -= fresh
        return fresh

    def expired(self, now: float) -> set[Nlri]:
        """What goes because the neighbour took too long."""
        return self.clear() if self.deadline is not None and now >= self.deadline else set()

    def clear(self) -> set[Nlri]:
        """End-of-RIB came, or nothing may be kept."""
        gone, self.prefixes, self.deadline = self.prefixes, set(), None
        return gone
