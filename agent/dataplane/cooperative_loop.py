"""Drives long computations piece by piece, so that the loop is never held for longer than one piece.

Promises: the result is that of the computation done in one go, as long as nobody else has what it works on.
Does not know: what is computed.
"""

from __future__ import annotations

import asyncio
from typing import TypeVar

from agent.dataplane.cooperative import Work

T = TypeVar("T")


async def run_cooperatively(work: Work[T]) -> T:
    """The result; the first piece is done before anybody else runs."""
    while True:
        try:
            next(work)
        except StopIteration as ended:
            result: T = ended.value
            return result
        await asyncio.sleep(0)
