"""A store whose writes a test holds back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ipam.etcd.store import CommitOutcome, Guard, Operation
from tests.fakes.store import FakeStore


class HangingStore(FakeStore):
    """Takes writes, and answers when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = asyncio.Event()
        self.answers.set()

    async def commit(self, guards: Sequence[Guard], operations: Sequence[Operation]) -> CommitOutcome:
        """See Store."""
        await self.answers.wait()
        return await super().commit(guards, operations)
