"""What one neighbour told of one family: its Adj-RIB-In, what of it is refused, and what is stale.

Promises: pure; everything that was told and not withdrawn is kept, the refused too, so that it can be shown and judged
again. Answers say what the Loc-RIB must take or lose.
Does not know: sessions, other neighbours, which path is best.
RFC 4271 section 3.2, RFC 4724 section 4.2.
"""

from __future__ import annotations

from collections.abc import Iterable

from bgp.decision import Path
from bgp.families import Family
from bgp.nlri import Nlri
from bgp.outputs import Forgotten, Learned, Marked, Output, Tolerated
from bgp.restart import Staleness
from bgp.rib import AdjRibIn
from bgp.update_message import Update


class Intake:
    """One family's."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.told = AdjRibIn()
        """Everything that the neighbour announced and did not withdraw."""
        self.refused: dict[Nlri, str] = {}
        """What of it is not believed, and why."""
        self.heard_all = False
        """Whether the neighbour has sent End-of-RIB in our present life."""
        self._stale = Staleness()

    @property
    def stale(self) -> set[Nlri]:
        """The prefixes whose paths are kept through the neighbour's restart."""
        return self._stale.prefixes

    @property
    def has_stale(self) -> bool:
        """Whether any is stale."""
        return bool(self._stale)

    def is_stale(self, prefix: Nlri) -> bool:
        """Whether this one's is."""
        return prefix in self._stale

    @property
    def deadline(self) -> float | None:
        """When `expire` is due."""
        return self._stale.deadline

    # -- what the neighbour says --------------------------------------------------------------------------------------

    def withdraw(self, prefixes: Iterable[Nlri]) -> list[Output]:
        """The neighbour has no path to these any more."""
        known = self.told.drop(prefixes)
        self._stale.told(known)
        return self._without(known)

    def announce(self, update: Update, path: Path, refusal: str) -> list[Output]:
        """The neighbour gives a path; `refusal` says why it is not believed, empty: it is."""
        prefixes = update.announced
        fresh = self._stale.told(prefixes)
        self.told.put(prefixes, path)
        if refusal:
            outputs = self._without(prefixes)
            self.refused.update(dict.fromkeys(prefixes, refusal))
            return [*outputs, Tolerated((refusal,))]
        if self.refused:
            for prefix in prefixes:
                self.refused.pop(prefix, None)
        outputs = [Learned(prefixes, path, self.family)]
        if fresh:
            outputs.append(Marked(fresh, self.family))
        return outputs

    def end(self) -> list[Output]:
        """End-of-RIB: what is still stale was not told again."""
        self.heard_all = True
        return self._drop(self._stale.clear())

    # -- what becomes of it when the session ends ---------------------------------------------------------------------

    def lost(self, restart_seconds: int, now: float) -> list[Output]:
        """The session broke, and the paths may stay for a while."""
        outputs = self._drop(self._stale.lost(self.told.prefixes, restart_seconds, now))
        return [*outputs, Marked(frozenset(self.stale), self.family)]

    def returned(self, now: float, *, kept: bool) -> list[Output]:
        """The neighbour is back; `kept`: it says that it kept forwarding (F bit)."""
        return self._drop(self._stale.returned(now, kept=kept))

    def expire(self, now: float) -> list[Output]:
        """Let go what the neighbour took too long with."""
        return self._drop(self._stale.expired(now))

    def forget(self) -> list[Output]:
        """Let go everything."""
        self._stale.clear()
        return self._drop(list(self.told.prefixes))

    # -- within -------------------------------------------------------------------------------------------------------

    def _drop(self, prefixes: Iterable[Nlri]) -> list[Output]:
        return self.withdraw(prefixes)

    def _without(self, prefixes: Iterable[Nlri]) -> list[Output]:
        """The Loc-RIB loses these, as far as it had them."""
        refused = self.refused
        gone = (
            [prefix for prefix in prefixes if refused.pop(prefix, None) is None]
            if refused
            else list(prefixes)
        )
        return [Forgotten(gone, self.family)] if gone else []
