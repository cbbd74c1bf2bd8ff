"""The random histories of `test_histories` on a real etcd: the same users, faults, and check after each write."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

import pytest

from ipam.etcd.client import EtcdStore
from ipam.etcd.etcd_config import EtcdConfig
from ipam.etcd.store import CommitOutcome, Committed, Delete, Listing, Operation, Unchanged, Versioned
from ipam.failures import StoreUnavailable
from tests.fakes.store import Fault
from tests.fixtures.etcd import Etcd, start_etcd
from tests.ipam.allocation.test_histories import PROCESSES, STEPS, History
from tests.scenes.ipam_world import World

HISTORIES = 8


class ShakyStore:
    """A real store whose commits fail by chance, before or after they happened, and are checked one by one."""

    def __init__(self, inner: EtcdStore, seed: int) -> None:
        self._inner = inner
        self._dice = random.Random(seed)
        self._turn = asyncio.Lock()
        self.chance: dict[Fault, float] = {}
        self.committed: Any = None

    async def get(self, key: str) -> Versioned | None:
        return await self._inner.get(key)

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, Versioned]:
        return await self._inner.get_many(keys)

    async def list(self, prefix: str) -> Listing:
        return await self._inner.list(prefix)

    async def commit(self, guards: Sequence[Unchanged], operations: Sequence[Operation]) -> CommitOutcome:
        fault = next((fault for fault, chance in self.chance.items() if self._dice.random() < chance), None)
        if fault is Fault.UNAVAILABLE:
            raise StoreUnavailable(fault.value)
        # Not even a cancelled caller keeps a write that happened from being checked.
        outcome = await asyncio.shield(asyncio.ensure_future(self._checked(guards, operations)))
        if fault is Fault.LOST_REPLY:
            raise StoreUnavailable(fault.value)
        return outcome

    async def _checked(self, guards: Sequence[Unchanged], operations: Sequence[Operation]) -> CommitOutcome:
        async with self._turn:  # nobody writes between a write and its check
            outcome = await self._inner.commit(guards, operations)
            if isinstance(outcome, Committed) and self.committed is not None:
                self.committed((await self._inner.list("/calico/")).values)
            return outcome


class EtcdHistory(History):
    """A history whose store is real."""

    def __init__(self, seed: int, store: EtcdStore) -> None:
        super().__init__(seed)
        shaky = ShakyStore(store, seed)
        self.store = shaky  # type: ignore[assignment]
        self.world = World(shaky)  # type: ignore[arg-type]
        self.processes = [self.world.allocator() for _ in PROCESSES]
        shaky.committed = self.check


@pytest.fixture(scope="module")
def server() -> Iterator[Etcd]:
    with start_etcd() as running:
        yield running


@pytest.fixture
async def store(server: Etcd) -> AsyncIterator[EtcdStore]:
    made = EtcdStore(EtcdConfig((server.endpoint,)))
    yield made
    await made.close()


@pytest.mark.parametrize("seed", range(HISTORIES))
async def test_no_history_on_a_real_etcd_gives_an_address_twice_or_loses_one(
    seed: int, store: EtcdStore
) -> None:
    everything = [Delete(key) for key in (await store.list("/calico/")).values]
    for start in range(0, len(everything), 100):
        await store.commit((), everything[start : start + 100])
    history = EtcdHistory(seed, store)
    await history.run()
    assert history.writes > STEPS / 4
