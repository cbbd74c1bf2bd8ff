"""What one neighbour told of one family: its Adj-RIB-In, what of it is refused, and what is stale.

Promises: pure; everything that was told and not withdrawn is kept, the refused too, so that it can be shown and judged
again. Answers say what the Loc-RIB must take or lose.
Does not know: sessions, other neighbours, which path is best.
RFC 4271 section 3.2, RFC 4724 section 4.2.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bgp.attributes import PathAttributes
from bgp.decision import Path
from bgp.families import Family
from bgp.nlri import Nlri
from bgp.outputs import Forgotten, Learned, Marked, Output, Tolerated
from bgp.policy import Candidate, Judge
from bgp.restart import Staleness
from bgp.rib import AdjRibIn
from bgp.update_message import Update


class Intake:
    """One family's."""

    def __init__(self, family: Family, judge: Judge | None = None) -> None:
        self.family = family
        self._judge = judge
        self.told = AdjRibIn()
        """Everything that the neighbour announced and did not withdraw."""
        self.refused: dict[Nlri, str] = {}
        """What of it is not believed, and why."""
        self._filtered: set[Nlri] = set()
        """Of the refused those that the judge refused; the others are wrong in themselves."""
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
        outputs = self._decide(prefixes, path)
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

    # -- what we want of it -------------------------------------------------------------------------------------------

    def rejudge(self, judge: Judge | None) -> list[Output]:
        """Other rules hold from now on; the neighbour need not repeat anything."""
        self._judge = judge
        by_path: dict[int, tuple[Path, list[Nlri]]] = {}  # by identity: paths are shared, and alive meanwhile
        for prefix, path in self.told.items():
            if prefix not in self.refused or prefix in self._filtered:
                by_path.setdefault(id(path), (path, []))[1].append(prefix)
        return [output for path, prefixes in by_path.values() for output in self._decide(prefixes, path)]

    # -- within -------------------------------------------------------------------------------------------------------

    def _drop(self, prefixes: Iterable[Nlri]) -> list[Output]:
        return self.withdraw(prefixes)

    def _decide(self, prefixes: Sequence[Nlri], path: Path) -> list[Output]:
        if self._judge is None:
            self._unrefuse(prefixes)
            return [Learned(prefixes, path, self.family)]
        accepted: dict[PathAttributes, list[Nlri]] = {}
        refused: dict[Nlri, str] = {}
        for prefix in prefixes:
            verdict = self._judge(Candidate(prefix, path.attributes, learned=True))
            if verdict.attributes is None:
                refused[prefix] = verdict.reason
            else:
                accepted.setdefault(verdict.attributes, []).append(prefix)
        outputs = self._without(refused) if refused else []
        self.refused.update(refused)
        self._filtered.update(refused)
        for attributes, some in accepted.items():
            self._unrefuse(some)
            outputs.append(Learned(some, Path(attributes, path.source), self.family))
        return outputs

    def _unrefuse(self, prefixes: Iterable[Nlri]) -> None:
        if self.refused:
            for prefix in prefixes:
                self.refused.pop(prefix, None)
            self._filtered.difference_update(prefixes)

    def _without(self, prefixes: Iterable[Nlri]) -> list[Output]:
        """The Loc-RIB loses these, as far as it had them."""
        gone = list(prefixes)
        if self.refused:
            had = [prefix for prefix in gone if prefix not in self.refused]
            self._unrefuse(gone)
            gone = had
        return [Forgotten(gone, self.family)] if gone else []
