"""Which objects failed, why, and when to try each again.

Promises: pure; waits double from `first_seconds` to `most_seconds`; time comes in as an argument. A wait holds back the
step that was refused, not another one: another value or a removal is tried at once.
Does not know: what the objects and the steps are, who tries.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

FIRST_SECONDS = 0.2
MOST_SECONDS = 60.0
MOST_DOUBLINGS = 16
"""Keeps the power small; the wait has long reached its ceiling by then."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The last refusal of one object."""

    attempts: int
    retry_at: float
    """Monotonic seconds."""
    why: str
    step: Any = None
    """What was refused, to compare with what is tried next."""


@dataclass(slots=True)
class Retries(Generic[K]):
    """The objects that are refused at present. One entry per desired object, so no larger than the desired state."""

    first_seconds: float = FIRST_SECONDS
    most_seconds: float = MOST_SECONDS
    _failures: dict[K, Failure] = field(default_factory=dict)

    def failed(
        self, key: K, why: str, now: float, step: object = None, most_seconds: float | None = None
    ) -> None:
        """Note a refusal; the next try of this step waits twice as long as the last one did, up to `most_seconds`."""
        before = self._failures.get(key)
        attempts = 1 if before is None else before.attempts + 1
        most = self.most_seconds if most_seconds is None else most_seconds
        wait = min(most, self.first_seconds * 2 ** min(attempts - 1, MOST_DOUBLINGS))
        self._failures[key] = Failure(attempts, now + wait, why, step)

    def succeeded(self, key: K) -> None:
        """Forget the refusals of an object that was carried out or is no longer desired."""
        self._failures.pop(key, None)

    def may_try(self, key: K, now: float, step: object = None) -> bool:
        """Whether the object's wait is over; true for an object that never failed, and for another step."""
        failure = self._failures.get(key)
        return failure is None or now >= failure.retry_at or step != failure.step

    def next_retry_at(self) -> float | None:
        """The earliest moment at which something may be tried again; None when nothing failed."""
        return min((failure.retry_at for failure in self._failures.values()), default=None)

    def retry_now(self, key: K) -> None:
        """Let one object be tried at once: what is in its place changed."""
        if key in self._failures:
            self._failures[key] = replace(self._failures[key], retry_at=0.0)

    def retry_all_now(self) -> None:
        """Let everything be tried at once: the world changed, so old refusals say little. Reasons stay visible."""
        for key, failure in self._failures.items():
            self._failures[key] = replace(failure, retry_at=0.0)

    @property
    def failures(self) -> Mapping[K, Failure]:
        """What is refused at present; a view, read at once."""
        return self._failures
