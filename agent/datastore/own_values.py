"""Looks at the stored values that this node depends on and no watch reports: rules, reservations, own blocks, handles.

They are read when addresses are assigned and released; without this nobody would hear that one is damaged before a pod
needs it.
Promises: a look after the start, every LOOK_SECONDS, and soon after what is watched has become unreadable or readable
(damage seldom comes alone); while something is unreadable, that alone again every AGAIN_SECONDS. Nothing is changed.
Does not know: what a value is used for, who damaged it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping

import structlog

from agent.datastore.namespace_labels import NamespaceLabels
from agent.datastore.resources.resource_types import IPReservation
from agent.datastore.state_cache import StateCache, own_blocks
from agent.datastore.storage_layout import read_valid
from agent.datastore.unreadable_values import CURE, UnreadableValues
from agent.trouble import Trouble, TroubleKind
from ipam import block as blocks
from ipam.allocation.transaction import read_block
from ipam.codec import decode_config, decode_handle
from ipam.etcd.store import Store, Versioned
from ipam.failures import StoreError, Unreadable
from ipam.keys import BLOCKS, HANDLES, IPAM_CONFIG, RESERVATIONS, block_key, handle_key
from ipam.model import Prefix

LOOK_SECONDS = 300.0
AGAIN_SECONDS = 0.8
"""Whatever is mended is told as mended within a second."""
RETRY_SECONDS = 1.0
"""While the datastore is away, or was not read yet."""
MOST_HANDLES = 4096
"""Of this node's pods and tunnels, looked at in one go."""
MOST_OVERLAPS = 32
"""Blocks that another overlaps, named one by one."""

LOSSES: Mapping[str, str] = {
    BLOCKS: "nothing is assigned from it, and what is in it is not released; its pods keep their routes",
    HANDLES: "what it holds is not released",
    IPAM_CONFIG: "the rules last read hold; if none were, nothing is assigned",
    RESERVATIONS: "no new address is assigned, for nobody knows which ones it keeps",
}
"""Prefix -> what holds instead of an unreadable value below it."""

CURES: Mapping[str, str] = {
    BLOCKS: "restore it from a backup; if it is deleted, addresses of living pods may be given again",
    HANDLES: "delete it, then: tortie ipam check --fix",
}

log = structlog.get_logger()


class OwnValues:
    """Owns what is known to be unreadable among them; a shell."""

    def __init__(
        self,
        store: Store,
        state: StateCache,
        in_sync: Callable[[], bool],
        passed_over: Callable[[], Mapping[Prefix, Prefix]] = dict,
        namespaces: NamespaceLabels | None = None,
    ) -> None:
        """`in_sync` says whether the watched state was read as a whole.

        `passed_over`: blocks that the allocator would not use, and the block of another size that each overlaps.
        `namespaces` are looked at again while one is unknown.
        """
        self._store = store
        self._state = state
        self._in_sync = in_sync
        self._passed_over = passed_over
        self._namespaces = namespaces
        self._overlapping: dict[Prefix, Prefix] = {}
        """Those whose other block was there at the last look."""
        self._gone: frozenset[tuple[Prefix, Prefix]] = frozenset()
        """Those whose other block was not."""
        self._unreadable = UnreadableValues()
        self._watched: frozenset[str] = frozenset()
        """The watched keys that were unreadable at the last look."""
        self._handles: dict[str, tuple[str, ...]] = {}
        """Key of an own block -> the keys of the handles that hold something of it, when it was last readable."""

    def troubles(self) -> Iterator[Trouble]:
        """A trouble for each value that cannot be used, and for each block that another overlaps."""
        yield from self._unreadable.troubles()
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
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            if not self._in_sync():
                await asyncio.sleep(RETRY_SECONDS)
                continue
            watched = frozenset(self._state.unreadable.keys())
            try:
                if watched != self._watched or loop.time() >= due:
                    await self.look()
                    self._watched = watched
                    due = loop.time() + LOOK_SECONDS * random.uniform(0.75, 1.0)
                elif len(self._unreadable):
                    await self.look_again()
                await self.look_at_overlaps()
                if self._namespaces is not None:
                    await self._namespaces.look_again()
            except StoreError as error:
                log.info("datastore.own_values_not_read", why=str(error))
            await asyncio.sleep(AGAIN_SECONDS)

    async def look(self) -> None:
        """Read everything. Raises StoreError."""
        owned = own_blocks(self._state.block_owners, self._state.node)
        found = dict(await self._store.get_many([*map(block_key, owned), IPAM_CONFIG]))
        found |= (await self._store.list(RESERVATIONS)).values
        self._learn_handles(found)
        held = {key: None for keys in self._handles.values() for key in keys}
        found |= await self._store.get_many(list(held)[:MOST_HANDLES])
        for key in self._unreadable.keys() - found.keys():
            self._unreadable.clear(key)
        for stored in found.values():
            self._read(stored)

    async def look_again(self) -> None:
        """Read what could not be read. Raises StoreError."""
        keys = list(self._unreadable.keys())
        found = await self._store.get_many(keys)
        for key in keys:
            if key in found:
                self._read(found[key])
            else:
                self._unreadable.clear(key)

    async def look_at_overlaps(self) -> None:
        """Read whether what the allocator found overlapping is still there. Raises StoreError."""
        wanted = dict(sorted(self._passed_over().items())[:MOST_OVERLAPS])
        keys = [block_key(other) for other in wanted.values()]
        found = await self._store.get_many(keys) if keys else {}
        there = {cidr: other for cidr, other in wanted.items() if block_key(other) in found}
        for cidr in there.keys() - self._overlapping.keys():
            log.warning("datastore.overlapping_blocks", block=str(cidr), other=str(there[cidr]))
        for cidr in self._overlapping.keys() - there.keys():
            log.info("datastore.overlapping_blocks_gone", block=str(cidr))
        self._overlapping, self._gone = there, frozenset(wanted.items() - there.items())

    def _learn_handles(self, found: Mapping[str, Versioned]) -> None:
        """Remember the handles of what each block holds; of one that cannot be read now what was known before."""
        before, self._handles = self._handles, {}
        for key, value in found.items():
            if key.startswith(BLOCKS):
                try:
                    block = read_block(value).block
                except Unreadable:
                    self._handles[key] = before.get(key, ())
                    continue
                bare = {blocks.bare_handle(attributes.handle) for _, attributes in blocks.allocated(block)}
                self._handles[key] = tuple(sorted(handle_key(handle) for handle in bare if handle))

    def _read(self, stored: Versioned) -> None:
        prefix = next(prefix for prefix in LOSSES if stored.key.startswith(prefix))
        if stored.key in self._state.unreadable:  # told there
            self._unreadable.clear(stored.key)
            return
        try:
            _READERS[prefix](stored)
        except Unreadable as error:
            self._unreadable.note(stored.key, error, LOSSES[prefix], CURES.get(prefix, CURE))
        else:
            self._unreadable.clear(stored.key)


_READERS: Mapping[str, Callable[[Versioned], object]] = {
    BLOCKS: read_block,
    HANDLES: decode_handle,
    IPAM_CONFIG: decode_config,
    RESERVATIONS: lambda stored: read_valid(IPReservation, stored),
}
