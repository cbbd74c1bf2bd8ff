"""The long-running parts of the agent: one that fails is run again, and is a trouble until it has run well for a while.

Strategy. What comes from outside should be caught where it is known what it means. What is not caught there, be it an
errno, a stored value nobody thought of, or a mistake of ours, ends one run of one part: sessions, pods' calls and
routes of all others go on, which a new process would not help, as it would read the same again.
Promises: nothing that a part raises ends the agent or another part; it is run again after a wait that doubles from
FIRST_WAIT_SECONDS to LONGEST_WAIT_SECONDS; counted; a mistake's traceback is in the log.
Does not know: what a part does.
"""

from __future__ import annotations

import asyncio
import errno
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from agent.netlink.kernel_errors import KernelError
from agent.trouble import Trouble, TroubleKind
from ipam.failures import IpamError

T = TypeVar("T")

FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 30.0
"""Between a failure and the next run."""
CALM_SECONDS = 30.0
"""A part that has run so long again is well."""
MOST_WHY = 300
"""Characters of a reason in a trouble."""
OUTSIDE = (OSError, KernelError, IpamError)
"""What the world may do: its own words, in the trouble, say all. Anything else is a mistake of ours."""
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errnos of accept(2) after which asyncio waits for a second."""
LISTENERS, CALLBACKS = "listeners", "callbacks"
"""What fails outside of any part."""
CURES = {
    LISTENERS: "end who holds them, `ls -l /proc/PID/fd` shows what they are, or raise LimitNOFILE",
}


@dataclass(slots=True)
class _Failure:
    why: str
    attempts: int
    calm: asyncio.TimerHandle | None = None
    """Ends it when it fires."""


class Parts:
    """Which parts fail now, and how often each has."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self._failures: dict[str, _Failure] = {}
        self._counts = Counter[str]()

    @property
    def failures(self) -> Mapping[str, int]:
        """Part -> how often it has failed since the start."""
        return self._counts

    def troubles(self) -> Iterator[Trouble]:
        """The parts that failed and have not run well for long enough since."""
        for name, failure in self._failures.items():
            evidence = f"failed {failure.attempts} times: {failure.why}"
            loss = "connections wait" if name == LISTENERS else "its work stands still between two runs"
            yield Trouble(TroubleKind.PART, f"part {name}", evidence, loss, CURES.get(name, ""))

    async def keep(self, name: str, run: Callable[[], Awaitable[T]]) -> T:
        """Run until it returns, again after each failure; what it returns. Cancelled, it raises CancelledError."""
        while True:
            try:
                result = await run()
            except asyncio.CancelledError as error:
                # A library's own cancellation is a failure like any other; nobody would hear of it.
                if (task := asyncio.current_task()) is None or task.cancelling():
                    raise
                wait = self._failed(name, error)
            except Exception as error:
                wait = self._failed(name, error)
            else:
                self._well(name)
                return result
            await asyncio.sleep(wait)
            self._calm_later(name)

    @contextmanager
    def outlived(self, name: str) -> Iterator[None]:
        """What is raised inside is a failure of that part until the next time that nothing is."""
        try:
            yield
        except Exception as error:
            self._failed(name, error)
        else:
            self._well(name)

    def callback_failed(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """asyncio's exception handler: what no task awaits, and connections that cannot be accepted."""
        error = context.get("exception") or RuntimeError(context["message"])
        is_exhausted = isinstance(error, OSError) and error.errno in EXHAUSTED
        name = LISTENERS if is_exhausted else CALLBACKS
        self._failed(name, error)
        self._calm_later(name)

    def _failed(self, name: str, error: BaseException) -> float:
        """Note it; the seconds to wait."""
        cause = error
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        why = f"{type(cause).__name__}: {cause}"[:MOST_WHY]
        before = self._failures.get(name)
        if before is not None and before.calm is not None:
            before.calm.cancel()
        attempts = before.attempts + 1 if before is not None else 1
        self._failures[name] = _Failure(why, attempts)
        self._counts[name] += 1
        if (before is None or before.why != why) and not isinstance(cause, OUTSIDE):
            self._log.error("part.failed", part=name, why=why, exc_info=cause)
        wait: float = FIRST_WAIT_SECONDS * 2.0 ** min(attempts - 1, 16)
        return min(wait, LONGEST_WAIT_SECONDS)

    def _calm_later(self, name: str) -> None:
        self._failures[name].calm = asyncio.get_running_loop().call_later(CALM_SECONDS, self._well, name)

    def _well(self, name: str) -> None:
        failure = self._failures.pop(name, None)
        if failure is not None and failure.calm is not None:
            failure.calm.cancel()
