"""Keeps the state cache like the datastore: list at a revision, watch from the next one, and on any doubt start over.

Promises: `in_sync` is true only after every prefix was listed completely once, and not while one is older than before
(a restored backup) and still to be listed again; a lost watch, a compaction and an etcd that is away change nothing
until a new complete list is there. Watches are narrow: pools, nodes, claims, BGP settings, peers and filters, timers of
BFD, and the node's own endpoints and tunnel addresses; the contents of others' blocks only when asked.
Does not know: what the values mean, which part is triggered by a change.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator

import structlog

from agent.datastore.datastore_lock import CLUSTER_INFORMATIONS
from agent.datastore.recovery import foreign
from agent.datastore.state_cache import (
    AFFINITIES,
    BFD_TIMERS,
    BGP_FILTERS,
    BGP_PEERS,
    BGP_SETTINGS,
    ENDPOINTS,
    NODES,
    POOLS,
    StateCache,
    endpoint_prefix,
)
from agent.trouble import Trouble, TroubleKind
from ipam.etcd.store import Changed, Listing, Store
from ipam.failures import Compacted, StoreError, WentBack
from ipam.keys import BLOCKS, handle_key, tunnel_handles

RELIST_SECONDS = 600.0
"""However healthy a watch looks, its prefix is listed again this often (with jitter)."""
FIRST_WAIT_SECONDS = 0.2
HOLD_SECONDS = 30.0
"""What a listing lacks without a word of its deletion (an older backup) goes after this, unless it is written back."""
LONGEST_WAIT_SECONDS = 5.0
"""Waits between attempts while the datastore is away."""
VALUES_AT_ONCE = 200
"""Decoded before others run: some 20 ms."""
MOST_STREAMS = 256
"""Watches of one agent; beyond them one watch has the endpoints of all namespaces and nodes."""

WHOLE = (POOLS, NODES, BGP_SETTINGS, BGP_PEERS, BGP_FILTERS, BFD_TIMERS, AFFINITIES, CLUSTER_INFORMATIONS)
"""Prefixes below which everything is watched."""
TUNNELS_WATCHED = 3
"""Of the handles of this node's tunnels: there is no WireGuard."""

log = structlog.get_logger()


class Syncer:
    """One follower per prefix, all in one task group."""

    def __init__(
        self,
        store: Store,
        state: StateCache,
        changed: Callable[[], None],
        *,
        contents: bool = False,
        hold_seconds: float = HOLD_SECONDS,
        forget: Callable[[], None] = lambda: None,
    ) -> None:
        """With `contents` every block is watched: each pod anywhere changes one.

        What a listing lacks goes after `hold_seconds`; `forget` is called when the datastore is older than it was.
        """
        self._store = store
        self._state = state
        self._changed = changed
        tunnels = map(handle_key, tunnel_handles(state.node)[:TUNNELS_WATCHED])
        self._whole = (*WHOLE, *tunnels, *((BLOCKS,) if contents else ()))
        self._hold_seconds = hold_seconds
        self._forget = forget
        self._waiting = {*self._whole, ENDPOINTS}
        """Prefixes whose first complete list is still to come."""
        self._followed: set[str] = set()
        self._group: asyncio.TaskGroup | None = None
        self.knows_nodes = False
        """Whether the nodes have been listed: before, another machine may have this one's name."""
        self.revision = 0
        """The newest revision of the last list and of the events since."""
        self.went_back = 0
        """How often a prefix was found older than before: a backup was restored."""
        self._failing: dict[str, str] = {}
        """Prefix that cannot be listed or watched now -> why."""
        self._locked: str | None = None
        """Why it was locked when that was last looked at."""

    @property
    def trouble(self) -> str | None:
        """Why some prefix of the datastore cannot be followed now."""
        return next(iter(self._failing.values()), None)

    @property
    def in_sync(self) -> bool:
        """Whether every prefix has been listed completely at least once, in the cluster that this node knows."""
        return not self._waiting and self.foreign is None

    @property
    def foreign(self) -> str | None:
        """Why this is an empty datastore or another cluster's: then nothing follows from it, and nothing is written."""
        state = self._state
        if self._waiting or state.has_lost_pools or not (state.lost or state.missing):
            return None  # a pool that cannot be read may be the one that holds them
        missing = {key for key in state.missing if key.startswith(POOLS)}
        lost = [found for key in state.lost if (found := state.endpoint(key)) is not None]
        return foreign(state.living.count, lost, state.pools, missing)

    async def run(self) -> None:
        """Watch until cancelled. After a failure it may be called again, and reads everything again."""
        self._followed.clear()
        self._failing.clear()
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for prefix in self._whole:
                    self._follow(prefix)
                group.create_task(self._find_endpoints())
        finally:
            self._group = None

    def follow_endpoints(self, namespace: str) -> None:
        """Watch this node's endpoints of one more namespace; a known one is no work.

        Each is a stream, and anybody may write keys of namespaces that do not exist: of very many all are watched.
        """
        many = len(self._followed) >= MOST_STREAMS
        self._follow(ENDPOINTS if many else endpoint_prefix(namespace, self._state.node))

    def follow_blocks(self) -> None:
        """Watch the contents of all blocks from now on, as with `contents`."""
        if BLOCKS not in self._whole:
            self._whole = (*self._whole, BLOCKS)
            self._follow(BLOCKS)

    def _follow(self, prefix: str) -> None:
        if prefix not in self._followed and self._group is not None:
            self._followed.add(prefix)
            self._group.create_task(self._keep_following(prefix))

    async def _find_endpoints(self) -> None:
        """List all endpoints once, to learn in which namespaces this node has some; only those are followed."""
        wait = FIRST_WAIT_SECONDS
        while True:
            self._state.begin_listing(ENDPOINTS)
            try:
                listing = await self._store.list(ENDPOINTS)
                break
            except StoreError as error:
                wait = await self._pause(ENDPOINTS, error, wait)
        decoded = await self._decoded(listing)
        self._state.seed()
        self._state.replace(ENDPOINTS, listing.values, decoded)
        for namespace in sorted(self._state.endpoint_namespaces):
            self.follow_endpoints(namespace)
        self._listed(ENDPOINTS)

    async def _keep_following(self, prefix: str) -> None:
        wait = FIRST_WAIT_SECONDS
        while True:
            try:
                async with asyncio.timeout(RELIST_SECONDS * random.uniform(0.75, 1.0)):
                    await self._one_round(prefix)
            except TimeoutError:
                wait = FIRST_WAIT_SECONDS
            except WentBack as error:
                # Nothing is deleted for what an older datastore lacks until it was read as a whole.
                self._waiting.add(prefix)
                self.went_back += 1
                self._forget()
                log.warning(
                    "datastore.went_back", prefix=prefix, why=str(error), then="everything is read again"
                )
                wait = FIRST_WAIT_SECONDS
            except Compacted:
                log.info("datastore.compacted", prefix=prefix)
                wait = FIRST_WAIT_SECONDS
            except StoreError as error:
                wait = await self._pause(prefix, error, wait)

    async def _one_round(self, prefix: str) -> None:
        self._state.begin_listing(prefix)
        listing = await self._store.list(prefix)
        self.revision = listing.revision
        decoded = await self._decoded(listing)
        self._state.replace(prefix, listing.values, decoded, keep=prefix in self._whole)
        self._note_lock()
        if self._state.missing and self._group is not None:
            self._group.create_task(self._drop_later(frozenset(self._state.missing)))
        self._listed(prefix)
        async for event in self._store.watch(prefix, listing.revision + 1):
            self.revision = max(self.revision, event.revision)
            if isinstance(event, Changed):
                gone = event.revision if event.value is None else None
                before = len(self._state.lost)
                if self._state.apply(event.key, event.value, gone) or len(self._state.lost) != before:
                    self._note_lock()
                    self._changed()

    def _note_lock(self) -> None:
        """Have the log say that the datastore is locked, and that it is no more."""
        before, self._locked = self._locked, self._state.lock.reason
        if self._locked is not None and before is None:
            log.warning("datastore.locked", why=self._locked)
        elif self._locked is None and before is not None:
            log.info("datastore.unlocked")

    async def _drop_later(self, keys: frozenset[str]) -> None:
        """Have what a listing lacked go, unless its owner has written it back by then.

        A pool stays as long as a claim lies in it, and everything while the datastore may not be believed.
        """
        while True:
            await asyncio.sleep(self._hold_seconds)
            if self.in_sync:
                break
        state = self._state
        used = {
            record.key
            for record in state.pools
            if any(block.network_address in record.pool for block in state.block_owners)
        }
        if gone := keys & state.missing - used:
            log.warning("datastore.missing_dropped", count=len(gone), first=min(gone))
            if state.drop(gone):
                self._changed()

    def troubles(self) -> Iterator[Trouble]:
        """What was in the datastore and is not, and is in force all the same."""
        if (why := self.foreign) is not None:
            yield Trouble(
                TroubleKind.DATASTORE,
                "",
                f"it is empty, or another cluster's: {why}",
                "routes stay as they were, nothing is written, no pod can be attached",
                "restore a backup of this cluster, or create its pools again",
            )
        lacking = sorted(key for key in self._state.missing if not key.startswith(POOLS))
        if lacking:
            yield Trouble(
                TroubleKind.DATASTORE,
                lacking[0],
                f"{len(lacking)} keys, of which this is the first, were in the datastore and are not",
                f"what they say stays in force for {self._hold_seconds:g} s, in which their nodes write them back",
            )
        for record in self._state.pools:
            if record.key in self._state.missing:
                yield Trouble(
                    TroubleKind.MISSING,
                    record.key,
                    f"pool {record.pool.name} was in the datastore and is not",
                    "it stays in force while blocks of it are claimed, and gives no address",
                    "create it again, or release its blocks",
                )

    async def _decoded(self, listing: Listing) -> dict[str, object]:
        """Every value of a list, in pieces: nobody knows how many somebody has written."""
        found: dict[str, object] = {}
        for number, (key, value) in enumerate(listing.values.items(), 1):
            found[key] = self._state.decode(value)
            if number % VALUES_AT_ONCE == 0:
                await asyncio.sleep(0)
        return found

    def _listed(self, prefix: str) -> None:
        self.knows_nodes = self.knows_nodes or prefix == NODES
        self._waiting.discard(prefix)
        self._failing.pop(prefix, None)
        self._changed()

    async def _pause(self, prefix: str, error: StoreError, wait: float) -> float:
        """Wait before the next attempt; returns the seconds to wait after that."""
        is_first = not self._failing
        self._failing[prefix] = str(error)
        if is_first:
            self._changed()
        await asyncio.sleep(wait * random.uniform(0.75, 1.0))
        return min(wait * 2, LONGEST_WAIT_SECONDS)
