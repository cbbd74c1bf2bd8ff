"""What one neighbour told of one family: its Adj-RIB-In, what of it is refused, and what is stale.

Promises: pure; everything that was told and not withdrawn is kept, the refused too, so that it can be shown and judged
again. Answers say what the Loc-RIB must take or lose.
Does not know: sessions, other neighbours, which path is best.
RFC 4271 section 3.2, RFC 4724 section 4.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from bgp.events import Learned, Output, StaleChanged, Withdrawn
from bgp.path import Path
from bgp.policy.policy import Candidate, CompiledPolicy
from bgp.rib.graceful_restart import Staleness
from bgp.rib.loc_rib import _PeerPaths
from bgp.wire.attributes import PathAttributes
from bgp.wire.families import Family
from bgp.wire.nlri import Nlri, by_path_id, identified, prefix_of

LONGEST_REPEATING_SECONDS = 360.0
"""How long a neighbour may take to tell everything again before what it did not tell goes (RFC 7313 section 4.2)."""


class AdjRibIn:
    """One family's."""

    def __init__(self, family: Family, judge: CompiledPolicy | None = None) -> None:
        self.family = family
        self.policy = judge
        """Of what the neighbour tells from now on."""
        self.pre_policy = _PeerPaths()
        """Everything that the neighbour announced and did not withdraw."""
        self.rejected: dict[Nlri, str] = {}
        """What of it is not believed, and why."""
        self.eor_received = False
        """Whether the neighbour has sent End-of-RIB in our present life."""
        self.eor_in_session = False
        """Whether it has in its present session."""
        self._identified: dict[Nlri, dict[Nlri, None]] = {}
        """Prefix -> its keys, where they have path identifiers."""
        self._stale = Staleness()
        self._unrepeated: set[Nlri] | None = None
        """While the neighbour repeats everything (RFC 7313): what it has not told again yet."""
        self._repeating_until = 0.0

    @property
    def stale(self) -> set[Nlri]:
        """The prefixes whose paths are kept through the neighbour's restart."""
        return self._stale.prefixes

    @property
    def has_stale(self) -> bool:
        """Whether any is stale."""
        return bool(self._stale)

    def is_stale(self, prefix: Nlri, path_id: int | None) -> bool:
        """Whether this one's is."""
        return identified(path_id, prefix) in self._stale

    @property
    def deadline(self) -> float | None:
        """When `expire` is due."""
        if self._unrepeated is None:
            return self._stale.deadline
        return min(self._repeating_until, self._stale.deadline or self._repeating_until)

    # -- what the neighbour says --------------------------------------------------------------------------------------

    def withdraw(self, prefixes: Iterable[Nlri]) -> list[Output]:
        """The neighbour has no path to these any more."""
        known = self.pre_policy.drop(prefixes)
        if self._identified:
            self._unindex(known)
        self._hear(known)
        return self._without(known)

    def announce(self, prefixes: Sequence[Nlri], path: Path, refusal: str) -> list[Output]:
        """The neighbour gives a path; `refusal` says why it is not believed, empty: it is."""
        fresh = self._hear(prefixes)
        self.pre_policy.put(prefixes, path)
        if path.source.path_id is not None:
            for key in prefixes:
                self._identified.setdefault(prefix_of(key), {})[key] = None
        outputs = self._settle(prefixes, path, refusal)
        if fresh and not refusal:
            outputs.append(StaleChanged(set(map(prefix_of, fresh)), self.family))
        return outputs

    def is_accepted(self, prefix: Nlri, path_id: int | None) -> bool:
        """Whether the Loc-RIB should have this path of it."""
        key = identified(path_id, prefix)
        return key not in self.rejected and self.pre_policy.get(key) is not None

    def keys_of(self, prefix: Nlri) -> Iterable[Nlri]:
        """What it may be known by in `told` and `refused`: itself, and with each of its path identifiers."""
        return (prefix, *self._identified.get(prefix, ()))

    def _unindex(self, keys: Iterable[Nlri]) -> None:
        for key in keys:
            if (known := self._identified.get(prefix_of(key))) is not None:
                known.pop(key, None)
                if not known:
                    del self._identified[prefix_of(key)]

    def _hear(self, prefixes: Sequence[Nlri]) -> set[Nlri]:
        """The neighbour spoke of these; answers those that were stale until now."""
        if self._unrepeated:
            self._unrepeated.difference_update(prefixes)
        return self._stale.refreshed(prefixes)

    def end_of_rib(self) -> list[Output]:
        """End-of-RIB: what is still stale was not told again."""
        self.eor_received = self.eor_in_session = True
        return self._drop(self._stale.clear())

    def begin_refresh(self, now: float) -> None:
        """It begins to tell everything again; a second beginning counts anew (RFC 7313 section 4.2)."""
        self._unrepeated, self._repeating_until = (
            set(self.pre_policy.prefixes),
            now + LONGEST_REPEATING_SECONDS,
        )

    def end_refresh(self) -> list[Output]:
        """It has told everything again: what was not among it is gone."""
        gone, self._unrepeated = self._unrepeated, None
        return self._drop(gone) if gone else []

    # -- what becomes of it when the session ends ---------------------------------------------------------------------

    def session_lost(self, restart_seconds: int, now: float) -> list[Output]:
        """The session broke, and the paths may stay for a while."""
        self._unrepeated = None
        outputs = self._drop(self._stale.session_lost(self.pre_policy.prefixes, restart_seconds, now))
        keys = self.pre_policy.prefixes
        return [
            *outputs,
            StaleChanged(list(map(prefix_of, keys)) if self._identified else list(keys), self.family),
        ]

    def session_established(self, now: float, *, kept: bool) -> list[Output]:
        """The neighbour is back; `kept`: it says that it kept forwarding (F bit)."""
        self.eor_in_session = False
        return self._drop(self._stale.session_established(now, kept=kept))

    def expire(self, now: float) -> list[Output]:
        """Let go what the neighbour took too long with."""
        outputs = self._drop(self._stale.expired(now))
        if self._unrepeated is not None and now >= self._repeating_until:
            outputs += self.end_refresh()
        return outputs

    def clear(self) -> list[Output]:
        """Let go everything."""
        self._unrepeated = None
        self._identified.clear()
        self._stale.clear()
        return self._without(self.pre_policy.drop_all())

    # -- what we want of it -------------------------------------------------------------------------------------------

    def reapply_policy(self, keys: Iterable[Nlri], refusal: Callable[[PathAttributes], str]) -> list[Output]:
        """Other rules hold; the neighbour need not repeat anything."""
        by_path: dict[int, tuple[Path, list[Nlri]]] = {}  # by identity: paths are shared, and alive meanwhile
        for key in keys:
            if (path := self.pre_policy.get(key)) is not None:
                by_path.setdefault(id(path), (path, []))[1].append(key)
        outputs: list[Output] = []
        for path, prefixes in by_path.values():
            outputs += self._settle(prefixes, path, refusal(path.attributes))
        return outputs

    # -- within -------------------------------------------------------------------------------------------------------

    def _drop(self, prefixes: Iterable[Nlri]) -> list[Output]:
        return self.withdraw(prefixes)

    def _settle(self, prefixes: Sequence[Nlri], path: Path, refusal: str) -> list[Output]:
        if not refusal:
            return self._decide(prefixes, path)
        outputs = self._without(prefixes)
        self.rejected.update(dict.fromkeys(prefixes, refusal))
        return outputs

    def _decide(self, prefixes: Sequence[Nlri], path: Path) -> list[Output]:
        if self.policy is None:
            self._unrefuse(prefixes)
            return [self._learned(prefixes, path)]
        accepted: dict[PathAttributes, list[Nlri]] = {}
        refused: dict[Nlri, str] = {}
        for prefix in prefixes:
            verdict = self.policy(Candidate(prefix_of(prefix), path.attributes, learned=True))
            if verdict.attributes is None:
                refused[prefix] = verdict.reason
            else:
                accepted.setdefault(verdict.attributes, []).append(prefix)
        outputs = self._without(refused) if refused else []
        self.rejected.update(refused)
        for attributes, some in accepted.items():
            self._unrefuse(some)
            outputs.append(self._learned(some, Path(attributes, path.source)))
        return outputs

    def _unrefuse(self, prefixes: Iterable[Nlri]) -> None:
        if self.rejected:
            for prefix in prefixes:
                self.rejected.pop(prefix, None)

    def _without(self, prefixes: Iterable[Nlri]) -> list[Output]:
        """The Loc-RIB loses these, as far as it had them."""
        gone = list(prefixes)
        if self.rejected:
            had = [prefix for prefix in gone if prefix not in self.rejected]
            self._unrefuse(gone)
            gone = had
        return [
            Withdrawn(keys if path_id is None else [prefix_of(key) for key in keys], self.family, path_id)
            for path_id, keys in by_path_id(gone)
        ]

    def _learned(self, keys: Sequence[Nlri], path: Path) -> Learned:
        prefixes = keys if path.source.path_id is None else [prefix_of(key) for key in keys]
        return Learned(prefixes, path, self.family)
