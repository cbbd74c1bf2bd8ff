"""Graceful restart, both sides of it: our own restart (RestartDeferral) and a peer's (Staleness).

Promises: pure; time is an argument. What is known of a peer's restart belongs to the peer, not to a connection, so it
survives any number of failed calls. Does not know: tables, sessions, peers.
RFC 4724 sections 4.1 and 4.2, RFC 8538, RFC 9494 section 4.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from enum import Enum, auto

from bgp.wire.capabilities import Capabilities, GracefulRestart
from bgp.wire.families import Family
from bgp.wire.nlri import Nlri

LONGEST_READVERTISING_SECONDS = 360.0
"""How long a peer that came back may take to its End-of-RIB before what it did not announce again goes."""
COMING_UP_SECONDS = 15.0
"""How long the deferral waits for a peer without a session before the peer counts as away."""
ANNOUNCING_SECONDS = 5.0
"""How long it waits for a peer that may never send End-of-RIB, counted from when the session was established."""


class DeferralState(Enum):
    """States of RestartDeferral."""

    UNCONFIGURED = auto()
    DEFERRING = auto()
    OVER = auto()


class RestartDeferral:
    """Our own start, until the routes that peers announce may be taken for all that there are (RFC 4724 section 4.1).

        UNCONFIGURED --configured--> DEFERRING --every peer is done, or the timer has run out--> OVER

    A peer is done once it has sent End-of-RIB in every family, or has had its time (`wait_until`); the timer
    (Selection_Deferral_Timer) runs `deferral_seconds` from the first configuration, so a dead peer holds up nobody.
    In OVER, what is not learned does not exist: routes of an earlier life may be removed. If this start is a restart,
    until then the R bit is set in our OPENs, and our End-of-RIB is withheld from the peers to whom we pass on what
    others announce: it would make them remove paths that we have not learned again yet. It never begins again.
    """

    def __init__(self, deferral_seconds: float, *, is_restart: bool, now: float) -> None:
        self.state = DeferralState.UNCONFIGURED
        self._is_restart = is_restart
        self._seconds = deferral_seconds
        self._began = now

    @property
    def is_over(self) -> bool:
        """Whether what is not learned may be taken as not existing."""
        return self.state is DeferralState.OVER

    @property
    def is_restarting(self) -> bool:
        """Whether we are restarting: sets the R bit, and withholds our End-of-RIB."""
        return self._is_restart and not self.is_over

    def configured(self, now: float) -> None:
        """The peers are known; only the first call counts."""
        if self.state is DeferralState.UNCONFIGURED:
            self.state, self._began = DeferralState.DEFERRING, now

    def deadline(self, waits: Iterable[float]) -> float | None:
        """When the deferral ends, by what `wait_until` says of each peer; None while UNCONFIGURED, and when OVER."""
        if self.state is not DeferralState.DEFERRING:
            return None
        return min(max(waits, default=self._began), self._began + self._seconds)

    def end_if_due(self, waits: Iterable[float], now: float) -> bool:
        """Whether the deferral ends now."""
        deadline = self.deadline(waits)
        if deadline is None or now < deadline:
            return False
        self.state = DeferralState.OVER
        return True


def wait_until(
    *, eor_received: bool, configured_at: float, up_at: float | None, restart: GracefulRestart | None
) -> float:
    """Until when a deferral waits for a peer: -inf when it is done, inf when only the deferral timer ends the wait.

    `eor_received`: in every family. `up_at`: since when there is a session; None: there is none. `restart`: what the
    peer offered in it. A peer that restarts as well may be waiting for us, so it is not waited for without end.
    """
    if eor_received:
        return float("-inf")
    if up_at is None:
        return configured_at + COMING_UP_SECONDS
    return float("inf") if restart is not None and not restart.restarting else up_at + ANNOUNCING_SECONDS


@dataclass(frozen=True, slots=True)
class Retention:
    """How long the paths of a family stay once their session is lost: two periods, one after the other."""

    restart_seconds: int
    """Stale, and as good as ever (RFC 4724)."""
    long_lived_seconds: int = 0
    """Then long-lived stale, and the last choice (RFC 9494)."""


def retention(theirs: Capabilities, families: Iterable[Family]) -> dict[Family, Retention]:
    """What a peer asks for in a session of these families, of each that it asks anything for.

    A family that one of the two capabilities leaves out, or a time of zero, is a period of no length (RFC 9494 4.2).
    """
    restart = theirs.graceful_restart
    if restart is None:
        return {}
    long_lived = {one.family: one.stale_seconds for one in theirs.long_lived or ()}
    found = {
        family: Retention(
            restart.restart_seconds if family in restart.families else 0, long_lived.get(family, 0)
        )
        for family in families
    }
    return {family: one for family, one in found.items() if one.restart_seconds or one.long_lived_seconds}


@dataclass(frozen=True, slots=True)
class Preserved:
    """Whether a peer's forwarding state of a family survived: the F bit of each capability of its new session."""

    restart: bool = False
    long_lived: bool = False


def preserved(theirs: Capabilities, family: Family) -> Preserved:
    """The F bits of a family."""
    restart = theirs.graceful_restart
    return Preserved(
        restart is not None and family in restart.forwarding_preserved,
        any(one.family is family and one.forwarding_preserved for one in theirs.long_lived or ()),
    )


@dataclass(frozen=True, slots=True)
class Due:
    """What the time has come for, of one peer's stale NLRI."""

    gone: Set[Nlri] = frozenset()
    """Their paths must go now."""
    long_lived: Set[Nlri] = frozenset()
    """Their paths are the last choice from now on."""


class Staleness:
    """The stale paths of one peer and family: which NLRI, and until when (RFC 4724 section 4.2, RFC 8538, RFC 9494).

    While the peer is away each stale NLRI has two moments of its own, counted from the loss that made it stale: when it
    becomes long-lived stale, and when it goes. The next moment of all is cached, since looking for it costs a pass over
    what may be a whole table. Once the peer is back only what is long-lived stale already still has its end, and one
    deadline for the peer's End-of-RIB ends it all.
    """

    def __init__(self) -> None:
        self._until: dict[Nlri, tuple[float, float]] = {}
        """Stale NLRI -> when it becomes long-lived stale, and when it goes; one tuple for all of one loss."""
        self.long_lived: set[Nlri] = set()
        """Those that are long-lived stale."""
        self._next = 0.0
        """Nothing is due before it; computed anew only when it has passed."""
        self._end_of_rib_until: float | None = None
        """While the peer is back: by when its End-of-RIB must have come."""

    def __iter__(self) -> Iterator[Nlri]:
        """The stale NLRI."""
        return iter(self._until)

    def __len__(self) -> int:
        return len(self._until)

    def __contains__(self, key: Nlri) -> bool:
        return key in self._until

    @property
    def deadline(self) -> float | None:
        """When `expired` is due; None: never."""
        if not self._until:
            return None
        return self._next if self._end_of_rib_until is None else min(self._next, self._end_of_rib_until)

    def session_lost(self, announced: Iterable[Nlri], stays: Retention, now: float) -> Due:
        """The session ended and its paths may stay.

        RFC 4724 lets a path go that was stale already, so that nobody keeps it for ever; RFC 9494 section 4.2 forbids
        it. Here it keeps its first deadlines: a peer that is killed twice in a row loses nothing, one that never ends
        does.
        """
        self._end_of_rib_until = None
        at = now + stays.restart_seconds
        moments = at, at + stays.long_lived_seconds
        for key in announced:
            self._until.setdefault(key, moments)
        self._next = now
        return self.expired(now)

    def session_established(self, now: float, kept: Preserved) -> set[Nlri]:
        """The peer is back; answers what goes because its forwarding state did not survive."""
        gone = {
            key for key in self._until if not (kept.long_lived if key in self.long_lived else kept.restart)
        }
        self._forget(gone)
        self._end_of_rib_until = now + LONGEST_READVERTISING_SECONDS
        self._next = self._soonest()
        return gone

    def refreshed(self, keys: Iterable[Nlri]) -> set[Nlri]:
        """The peer announced or withdrew these again; answers those that were stale until now."""
        if not self._until:
            return set()
        fresh = self._until.keys() & set(keys)
        self._forget(fresh)
        return fresh

    def expired(self, now: float) -> Due:
        """What becomes long-lived stale, or goes because the peer took too long."""
        if self._end_of_rib_until is not None and now >= self._end_of_rib_until:
            return Due(self.clear())
        if now < self._next or not self._until:
            return Due()
        gone = {key for key, (_, end) in self._until.items() if now >= end and self._has_end(key)}
        self._forget(gone)
        new = set[Nlri]()
        if self._end_of_rib_until is None:
            new = {key for key, (at, _) in self._until.items() if now >= at and key not in self.long_lived}
            self.long_lived |= new
        self._next = self._soonest()
        return Due(gone, new)

    def clear(self) -> set[Nlri]:
        """Everything goes: End-of-RIB came, or nothing may be retained."""
        gone = set(self._until)
        self._until.clear()
        self.long_lived.clear()
        self._end_of_rib_until = None
        return gone

    def _has_end(self, key: Nlri) -> bool:
        """Whether an NLRI's own end counts: once the peer is back, only a long-lived stale one's (RFC 9494 4.2)."""
        return self._end_of_rib_until is None or key in self.long_lived

    def _soonest(self) -> float:
        """When something is due next, but for the End-of-RIB."""
        long_lived, until = self.long_lived, self._until
        ends = (until[key][1] for key in long_lived)
        if self._end_of_rib_until is not None:
            return min(ends, default=float("inf"))
        starts = (at for key, (at, _) in until.items() if key not in long_lived)
        return min((*ends, *starts), default=0.0)

    def _forget(self, keys: Iterable[Nlri]) -> None:
        for key in keys:
            del self._until[key]
            self.long_lived.discard(key)
