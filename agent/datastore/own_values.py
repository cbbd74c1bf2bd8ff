"""Looks at the stored values that this node depends on and the syncer does not follow: rules, reservations, own blocks,
handles.

They are read when addresses are assigned and released; without this nobody would hear that one is damaged before a pod
needs it.
Promises: all are read after the start and every LOOK_SECONDS, and watched between: damage is named within a second.
A block of more than MOST_WATCHED_ADDRESSES is not watched, for each pod's address would bring all of it here. Nothing
is changed.
Does not know: what a value is used for, who damaged it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress

import structlog

from agent.datastore.resources.resource_types import IPReservation
from agent.datastore.state_cache import StateCache, own_blocks
from agent.datastore.storage_layout import read_valid
from agent.datastore.unreadable_values import CURE, UnreadableValues
from agent.trouble import Trouble
from ipam import block as blocks
from ipam.allocation.transaction import read_block
from ipam.codec import decode_config, decode_handle
from ipam.etcd.store import Changed, Store, Versioned, WatchEvent
from ipam.failures import StoreError, Unreadable
from ipam.keys import BLOCKS, HANDLES, IPAM_CONFIG, RESERVATIONS, block_key, handle_key
from ipam.model import Prefix

LOOK_SECONDS = 300.0
SOON_SECONDS = 0.1
"""What changes within this time is read together, and of a key the last value alone."""
MOST_WATCHES = 10
"""Streams at once: of the reservations, of what was this node's at the look, of what became so since. Where one more
would be needed, one takes the place of these last."""
RETRY_SECONDS = 1.0
"""While the datastore is away, or was not read yet."""
MOST_HANDLES = 4096
"""Of this node's pods and tunnels, looked at in one go."""
MOST_WATCHED_ADDRESSES = 512
"""Of a block: some 80 kB with as many allocations."""

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

    def __init__(self, store: Store, state: StateCache, may_read: Callable[[], bool]) -> None:
        """`may_read` says whether the watched state was read as a whole."""
        self._store = store
        self._state = state
        self._may_read = may_read
        self._unreadable = UnreadableValues()
        self._handles: dict[str, tuple[str, ...]] = {}
        """Key of an own block -> the keys of the handles that hold something of it, when it was last readable."""
        self._since: dict[str, int] = {}
        """Key of a handle -> the revision of the block that first named it, as a watch reported it: both are written in
        one transaction, so a watch from there on has the handle's own value."""
        self._changed: dict[str, Versioned | None] = {}
        """Key -> its last value by the watches, not read yet; bounded by what is watched."""
        self._wake = asyncio.Event()

    def troubles(self) -> Iterable[Trouble]:
        """A trouble for each value that cannot be used."""
        return self._unreadable.troubles()

    async def run(self) -> None:
        """Look and watch until cancelled."""
        while True:
            if not self._may_read():
                await asyncio.sleep(RETRY_SECONDS)
                continue
            try:
                revision = await self.look()
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_SECONDS * random.uniform(0.75, 1.0)):
                        await self.follow(revision)
            except StoreError as error:
                log.info("datastore.own_values_not_read", why=str(error))
                await asyncio.sleep(RETRY_SECONDS)

    async def look(self) -> int:
        """Read everything. The revision from which on changes are news. Raises StoreError."""
        listing = await self._store.list(RESERVATIONS)
        self._changed.clear()
        found = {
            **listing.values,
            **await self._store.get_many([*map(block_key, self._blocks()), IPAM_CONFIG]),
        }
        before, self._handles = self._handles, {}
        for key, value in found.items():
            if key.startswith(BLOCKS):
                self._handles[key] = before.get(key, ())
                self._learn_handles(value)
        found |= await self._store.get_many(self._held_handles())
        for key in self._unreadable.keys() - found.keys():
            self._unreadable.clear(key)
        for stored in found.values():
            self._read(stored)
        return listing.revision + 1

    async def follow(self, revision: int) -> None:
        """Read what changes from a revision on; what becomes this node's later is read and watched beside that.

        Ends when a watch does. Raises StoreError.
        """
        at_the_look = watched = self._watched()
        self._since.clear()
        watches = [
            asyncio.ensure_future(self._note(self._store.watch(RESERVATIONS, revision))),
            self._watch(at_the_look, revision),
        ]
        try:
            while not any(watch.done() for watch in watches):
                with suppress(TimeoutError):
                    async with asyncio.timeout(RETRY_SECONDS):
                        await self._wake.wait()
                        await asyncio.sleep(SOON_SECONDS)
                self._wake.clear()
                self._read_changed()
                self._forget_others()
                if not (new := self._watched() - watched):
                    continue
                watched |= new
                if len(watches) < MOST_WATCHES:
                    watches.append(self._watch(new, await self._start_of(new)))
                    continue
                watched = self._watched() | at_the_look
                later = watched - at_the_look
                watches.append(self._watch(later, await self._look_at(later)))
                await _end(watches[2:-1])
                del watches[2:-1]
            for watch in watches:
                if watch.done():
                    watch.result()
        finally:
            await _end(watches)

    def _watch(self, keys: Iterable[str], revision: int) -> asyncio.Future[None]:
        return asyncio.ensure_future(self._note(self._store.watch_keys(sorted(keys), revision)))

    async def _start_of(self, keys: Collection[str]) -> int:
        """The revision from which on a watch has all that is not known of keys that are this node's now.

        Raises StoreError.
        """
        since = [self._since[key] for key in keys if key in self._since]
        return min(since) if len(since) == len(keys) else await self._look_at(keys)

    async def _look_at(self, keys: Collection[str]) -> int:
        """Read values that are this node's now. The revision from which on their changes are news."""
        revision = (await self._store.count(IPAM_CONFIG)).revision
        found = await self._store.get_many(sorted(keys))
        for key in keys:
            self._changed.pop(
                key, None
            )  # no newer than what was read, or reported again by the watch from there on
            if key not in found:
                self._unreadable.clear(key)
        for key, value in found.items():
            if key.startswith(BLOCKS):
                self._handles.setdefault(key, ())
                self._learn_handles(value)
            self._read(value)
        return revision + 1

    def _forget_others(self) -> None:
        """What is not this node's any more is none of its troubles."""
        own = {*map(block_key, self._blocks()), *self._held_handles(), IPAM_CONFIG}
        for key in self._handles.keys() - own:
            del self._handles[key]
        for key in self._since.keys() - own:
            del self._since[key]
        for key in self._unreadable.keys() - own:
            if not key.startswith(RESERVATIONS):
                self._unreadable.clear(key)

    async def _note(self, events: AsyncIterator[WatchEvent]) -> None:
        try:
            async for event in events:
                if isinstance(event, Changed):
                    self._changed[event.key] = event.value
                    self._wake.set()
        finally:
            self._wake.set()

    def _read_changed(self) -> None:
        changed, self._changed = self._changed, {}
        for key, value in changed.items():
            if value is None:
                self._unreadable.clear(key)
                continue
            if key in self._handles:
                before = {*self._handles[key]}
                self._learn_handles(value)
                self._since |= dict.fromkeys(set(self._handles[key]) - before, value.revision)
            self._read(value)

    def _blocks(self) -> Iterable[Prefix]:
        return own_blocks(self._state.block_owners, self._state.node)

    def _held_handles(self) -> list[str]:
        held = {key: None for keys in self._handles.values() for key in keys}
        return list(held)[:MOST_HANDLES]

    def _watched(self) -> frozenset[str]:
        own = {block_key(block): block.num_addresses for block in self._blocks()}
        small = (
            key for key, size in own.items() if size <= MOST_WATCHED_ADDRESSES or key in self._unreadable
        )
        return frozenset((IPAM_CONFIG, *small, *self._held_handles()))

    def _learn_handles(self, value: Versioned) -> None:
        """Remember the handles of what a block holds; of one that cannot be read now what was known before."""
        with suppress(Unreadable):
            block = read_block(value).block
            bare = {blocks.bare_handle(attributes.handle) for _, attributes in blocks.allocated(block)}
            self._handles[value.key] = tuple(sorted(handle_key(handle) for handle in bare if handle))

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


async def _end(watches: Sequence[asyncio.Future[None]]) -> None:
    for watch in watches:
        watch.cancel()
    await asyncio.gather(*watches, return_exceptions=True)


_READERS: Mapping[str, Callable[[Versioned], object]] = {
    BLOCKS: read_block,
    HANDLES: decode_handle,
    IPAM_CONFIG: decode_config,
    RESERVATIONS: lambda stored: read_valid(IPReservation, stored),
}
