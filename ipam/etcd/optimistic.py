"""Optimistic writes: read, build, commit; when another writer came first, the same again with what stands there now.

Promises: at most as many attempts as the caller allows. Does not know: what is written.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from ipam.failures import Conflict

Result = TypeVar("Result")
Pause = Callable[[float], Awaitable[None]]
"""Waits so many seconds."""


async def _at_once(seconds: float) -> None:
    """No pause."""


async def optimistic(
    attempt: Callable[[], Awaitable[Result | None]],
    most: int,
    overtaken: str,
    pause: Pause = _at_once,
    pause_seconds: float = 0.0,
) -> Result:
    """Repeat `attempt` until it answers; None means that its commit lost, and everything must be read anew.

    Raises Conflict with the sentence `overtaken` after `most` lost commits, and what `attempt` raises.
    """
    for _ in range(most):
        result = await attempt()
        if result is not None:
            return result
        await pause(pause_seconds)
    raise Conflict(overtaken)
