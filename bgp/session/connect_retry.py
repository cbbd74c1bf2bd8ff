"""ConnectRetry: when to open a connection to a peer: soon, then ever more rarely, not at all while it is held down.

Promises: pure; at most one attempt is under way, and it is given up in time. Does not know: sockets, sessions.
RFC 4271 section 8.1.3 (ConnectRetryTimer, DampPeerOscillations), section 10 (jitter).
"""

from __future__ import annotations

from collections.abc import Callable

from bgp.events import Close, Connection, Output
from bgp.session.session import jittered

FIRST_DELAY_SECONDS = (0.1, 1.0)
FIRST_RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 5.0
LONGEST_RETRY_AFTER_ERROR_SECONDS = 30.0
"""After any NOTIFICATION but Cease, with which nothing is wrong: what is wrong will not be right in a second."""
STABLE_SECONDS = 60.0
"""Seconds that a session must have been established for the backoff to start anew."""
CONNECT_SECONDS = 10.0
"""An attempt that is not answered by then is given up."""
HOLD_DOWN_AFTER_LIMIT_SECONDS = (300.0, 3600.0)
"""How long a peer that announced more than its limit is left alone the first time, and at most (RFC 4486)."""
HOLD_DOWN_AFTER_FAILURE_SECONDS = (1.0, 300.0)
"""The same for one whose messages met a bug of ours: it bounds how often that can happen."""
MOST_DOUBLINGS = 16
"""Of a pause: more than any of them needs to come to its limit."""


class ConnectRetry:
    """The attempts to connect to one peer."""

    def __init__(self, random: Callable[[], float], now: float, *, passive: bool) -> None:
        self.passive = passive
        self._random = random
        self._under_way: tuple[Connection, float] | None = None
        """The connection that is being opened, and when it is given up."""
        self._retry_seconds = FIRST_RETRY_SECONDS
        first, last = FIRST_DELAY_SECONDS
        self._due_at = None if passive else now + first + (last - first) * random()
        self._held_down_until = now
        self._hold_downs = 0
        """Since a session was stable."""

    @property
    def is_dialing(self) -> bool:
        """Whether an attempt waits for its answer."""
        return self._under_way is not None

    @property
    def deadline(self) -> float | None:
        """When `dial_due` or `timed_out` has an answer."""
        times = [self._due_at, self._under_way[1] if self._under_way else None]
        return min((at for at in times if at is not None), default=None)

    def is_held_down(self, now: float) -> bool:
        """Whether the peer is left alone, so that even connections that it opens are refused."""
        return now < self._held_down_until

    def dial_due(self, now: float, new_connection: Callable[[], Connection]) -> Connection | None:
        """The name of the connection to open now; None: none is due."""
        if self._due_at is None or now < self._due_at:
            return None
        self._due_at = None
        connection = new_connection()
        self._under_way = connection, now + CONNECT_SECONDS
        return connection

    def ended(self, connection: Connection) -> bool:
        """An attempt was answered or refused; answers whether it was still wanted."""
        if self._under_way is None or self._under_way[0] != connection:
            return False
        self._under_way = None
        return True

    def timed_out(self, now: float) -> Connection | None:
        """The attempt that took too long."""
        return self._under_way[0] if self._under_way is not None and now >= self._under_way[1] else None

    def stop(self) -> None:
        """Begin no further attempt; one under way goes on."""
        self._due_at = None

    def cancel(self) -> list[Output]:
        """Begin no further attempt, and close the one under way."""
        outputs: list[Output] = [Close(self._under_way[0])] if self._under_way is not None else []
        self._due_at = self._under_way = None
        return outputs

    def begin_anew(self, now: float) -> list[Output]:
        """Close the attempt under way, whose packets went nowhere, and begin one at once, with the shortest pauses."""
        outputs = self.cancel()
        self._retry_seconds = FIRST_RETRY_SECONDS
        if not self.passive:
            self._due_at = max(now, self._held_down_until)
        return outputs

    def reset_backoff(self, up_seconds: float) -> None:
        """A session ended that was established for `up_seconds`; after a stable one the backoff starts anew."""
        if up_seconds >= STABLE_SECONDS:
            self._retry_seconds = FIRST_RETRY_SECONDS
            self._hold_downs = 0

    def schedule(self, now: float, *, after_error: bool = False) -> None:
        """Schedule the next attempt, each time later. A passive side only waits.

        The pause doubles from FIRST_RETRY_SECONDS, jittered, up to a limit that depends on why the last session ended.
        """
        if self.passive or self._due_at is not None or self._under_way is not None:
            return
        longest = LONGEST_RETRY_AFTER_ERROR_SECONDS if after_error else LONGEST_RETRY_SECONDS
        due_at = now + jittered(min(self._retry_seconds, longest), self._random)
        self._due_at = max(due_at, self._held_down_until)
        self._retry_seconds = min(self._retry_seconds * 2, LONGEST_RETRY_AFTER_ERROR_SECONDS)

    def start_over(self, now: float) -> None:
        """A person wants an attempt now: the backoff starts anew, and the peer is left alone no longer."""
        self._retry_seconds, self._hold_downs, self._held_down_until = FIRST_RETRY_SECONDS, 0, now
        self._due_at = None
        self.schedule(now)

    def hurry(self, now: float) -> None:
        """Make the attempt that is scheduled now, if the peer is not held down."""
        if self._due_at is not None:
            self._due_at = max(now, self._held_down_until)

    def hold_down(self, now: float, seconds: tuple[float, float]) -> None:
        """Leave the peer alone (DampPeerOscillations): for the first of `seconds`, and longer each time, to the second.

        It is again the first after a stable session.
        """
        first, longest = seconds
        until = now + min(first * 2**self._hold_downs, longest)
        self._hold_downs = min(self._hold_downs + 1, MOST_DOUBLINGS)
        self._held_down_until = max(self._held_down_until, until)
        if self._due_at is not None:
            self._due_at = self._held_down_until

    def leave_alone(self, now: float, seconds: tuple[float, float]) -> list[Output]:
        """Close the attempt under way, and begin the next when the peer is no longer held down."""
        outputs = self.cancel()
        self.schedule(now)
        self.hold_down(now, seconds)
        return outputs

    def release(self, now: float) -> None:
        """Leave the peer alone no longer: what it was left alone for has changed."""
        if self.is_held_down(now):
            self._held_down_until, self._hold_downs = now, 0
            if self._due_at is not None:
                self._due_at = now

    @property
    def held_down_until(self) -> float:
        """Until when the peer is left alone; a moment that has passed where it is not."""
        return self._held_down_until
