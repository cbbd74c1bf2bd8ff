"""When to call a neighbour: soon, then ever more rarely, and not at all while it is barred.

Promises: pure; at most one call is under way, and it is given up in time. Does not know: sockets, sessions.
RFC 4271 section 8.1.3 (ConnectRetryTimer, DampPeerOscillations), section 10 (jitter).
"""

from __future__ import annotations

from collections.abc import Callable

from bgp.events import Close, Connection, Output
from bgp.session.timers import jittered

FIRST_DELAY_SECONDS = (0.1, 1.0)
FIRST_RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 5.0
LONGEST_RETRY_AFTER_ERROR_SECONDS = 30.0
"""After any NOTIFICATION but Cease, with which nothing is wrong: what is wrong will not be right in a second."""
STABLE_SECONDS = 60.0
"""An established session this old forgets earlier failures."""
CONNECT_SECONDS = 10.0
"""A call that is not answered by then is given up."""


class ConnectRetry:
    """One neighbour's."""

    def __init__(self, random: Callable[[], float], now: float, *, passive: bool) -> None:
        self.passive = passive
        self._random = random
        self._under_way: tuple[Connection, float] | None = None
        """The call, and when it is given up."""
        self._retry_seconds = FIRST_RETRY_SECONDS
        first, last = FIRST_DELAY_SECONDS
        self._due_at = None if passive else now + first + (last - first) * random()
        self._barred_until = now

    @property
    def is_dialing(self) -> bool:
        """Whether a call waits for its answer."""
        return self._under_way is not None

    @property
    def deadline(self) -> float | None:
        """When something is due."""
        times = [self._due_at, self._under_way[1] if self._under_way else None]
        return min((at for at in times if at is not None), default=None)

    def is_held_down(self, now: float) -> bool:
        """Whether even its own calls are turned away."""
        return now < self._barred_until

    def dial_due(self, now: float, new_connection: Callable[[], Connection]) -> Connection | None:
        """The call that is due now."""
        if self._due_at is None or now < self._due_at:
            return None
        self._due_at = None
        connection = new_connection()
        self._under_way = connection, now + CONNECT_SECONDS
        return connection

    def ended(self, connection: Connection) -> bool:
        """A call was answered or refused; whether it was still wanted."""
        if self._under_way is None or self._under_way[0] != connection:
            return False
        self._under_way = None
        return True

    def timed_out(self, now: float) -> Connection | None:
        """The call that took too long."""
        return self._under_way[0] if self._under_way is not None and now >= self._under_way[1] else None

    def stop(self) -> None:
        """No further call for now; one under way goes on."""
        self._due_at = None

    def cancel(self) -> list[Output]:
        """No call at all."""
        outputs: list[Output] = [Close(self._under_way[0])] if self._under_way is not None else []
        self._due_at = self._under_way = None
        return outputs

    def reset_backoff(self, up_seconds: float) -> None:
        """A session that stood so long is over."""
        if up_seconds >= STABLE_SECONDS:
            self._retry_seconds = FIRST_RETRY_SECONDS

    def schedule(self, now: float, *, after_error: bool = False) -> None:
        """Call again later, a little later each time. A passive side only waits."""
        if self.passive or self._due_at is not None or self._under_way is not None:
            return
        longest = LONGEST_RETRY_AFTER_ERROR_SECONDS if after_error else LONGEST_RETRY_SECONDS
        self._due_at = now + jittered(min(self._retry_seconds, longest), self._random)
        self._retry_seconds = min(self._retry_seconds * 2, LONGEST_RETRY_AFTER_ERROR_SECONDS)

    def hold_down(self, until: float) -> None:
        """Leave the neighbour alone for a while."""
        self._barred_until = until
        if self._due_at is not None:
            self._due_at = until
