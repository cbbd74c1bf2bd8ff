"""Own blocks that another block of another size overlaps: what they share is given to nobody, and that is told.

The allocator finds them when it assigns, and passes over what they share; whether the other block is still there is
looked at here.
Promises: what is over is told as over within a second; a look is bounded. Does not know: which addresses are shared.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping

import structlog

from agent.trouble import Trouble, TroubleKind
from ipam.etcd.store import Store
from ipam.failures import StoreError
from ipam.keys import block_key
from ipam.model import Prefix

SECONDS_BETWEEN = 0.5
"""Looks, if there is something to look at."""
MOST_OVERLAPS = 32
"""Blocks that another overlaps, named one by one."""

log = structlog.get_logger()


class BlockOverlaps:
    """Owns which of them are over; a shell."""

    def __init__(self, store: Store, passed_over: Callable[[], Mapping[Prefix, Prefix]]) -> None:
        """`passed_over`: blocks that the allocator would not use, and the block of another size that each overlaps."""
        self._store = store
        self._passed_over = passed_over
        self._gone: frozenset[tuple[Prefix, Prefix]] = frozenset()
        """Those whose other block was not there at the last look."""

    def troubles(self) -> Iterator[Trouble]:
        """A trouble for each block that another overlaps."""
        found = sorted(pair for pair in self._passed_over().items() if pair not in self._gone)
        for cidr, other in found[:MOST_OVERLAPS]:
            yield Trouble(
                TroubleKind.BLOCK,
                f"block {cidr}",
                f"it overlaps block {other}, of another size",
                "nothing is assigned of what they share",
                "tortie ipam check names all such blocks; once its pods are gone the other one can be deleted",
            )

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                await self.look()
            except StoreError as error:
                log.info("datastore.overlapping_blocks_not_read", why=str(error))
            await asyncio.sleep(SECONDS_BETWEEN)

    async def look(self) -> None:
        """Read whether what the allocator found overlapping is still there. Raises StoreError."""
        wanted = dict(sorted(self._passed_over().items())[:MOST_OVERLAPS])
        keys = [block_key(other) for other in wanted.values()]
        found = await self._store.get_many(keys) if keys else {}
        self._gone = frozenset(pair for pair in wanted.items() if block_key(pair[1]) not in found)
