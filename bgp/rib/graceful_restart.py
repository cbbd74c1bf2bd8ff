"""Graceful restart, both sides of it: our own restart (RestartDeferral) and a peer's (Staleness).

Promises: pure; time is an argument. What is known of a peer's restart belongs to the peer, not to a connection, so it
survives any number of failed calls. Does not know: tables, sessions, peers.
RFC 4724 sections 4.1 and 4.2, RFC 8538.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum, auto

from bgp.wire.capabilities import GracefulRestart
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


class Staleness:
    """The stale paths of one peer and family: which NLRI, and until when (RFC 4724 section 4.2, RFC 8538).

    Every answer is the set of NLRI whose paths must go now. While the peer is away each stale NLRI has a deadline of
    its own, `restart_seconds` after the loss that made it stale; the earliest is cached, since looking for it costs a
    pass over what may be a whole table. Once the peer is back, one deadline for its End-of-RIB replaces them all.
    """

    def __init__(self) -> None:
        self._until: dict[Nlri, float] = {}
        """Stale NLRI -> when it goes, counted from the first loss that made it stale."""
        self._earliest = 0.0
        """Nothing goes before it; computed anew only when it has passed."""
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
        """When `expired` is due."""
        if not self._until:
            return None
        return self._end_of_rib_until if self._end_of_rib_until is not None else self._earliest

    def session_lost(self, announced: Iterable[Nlri], restart_seconds: int, now: float) -> set[Nlri]:
        """The session ended and its paths may stay for `restart_seconds`.

        RFC 4724 lets a path go that was stale already, so that nobody keeps it for ever. Here it keeps its first
        deadline instead: a peer that is killed twice in a row loses nothing, one that never ends does.
        """
        self._end_of_rib_until = None
        at = now + restart_seconds
        self._earliest = min(self._earliest, at) if self._until else at
        for key in announced:
            self._until.setdefault(key, at)
        return self.expired(now)

    def session_established(self, now: float, *, forwarding_preserved: bool) -> set[Nlri]:
        """The peer is back; `forwarding_preserved`: its F bit is set."""
        if not forwarding_preserved:
            return self.clear()
        self._end_of_rib_until = now + LONGEST_READVERTISING_SECONDS
        return set()

    def refreshed(self, keys: Iterable[Nlri]) -> set[Nlri]:
        """The peer announced or withdrew these again; answers those that were stale until now."""
        if not self._until:
            return set()
        fresh = self._until.keys() & set(keys)
        for key in fresh:
            del self._until[key]
        return fresh

    def expired(self, now: float) -> set[Nlri]:
        """What goes because the peer took too long."""
        if self._end_of_rib_until is not None:
            return self.clear() if now >= self._end_of_rib_until else set()
        if now < self._earliest or not self._until:
            return set()
        gone = {key for key, at in self._until.items() if now >= at}
        for key in gone:
            del self._until[key]
        self._earliest = min(self._until.values(), default=0.0)
        return gone

    def clear(self) -> set[Nlri]:
        """Everything goes: End-of-RIB came, or nothing may be retained."""
        gone = set(self._until)
        self._until.clear()
        self._end_of_rib_until = None
        return gone
