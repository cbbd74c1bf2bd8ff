"""Random histories on a real etcd: the same users, faults, and check after each write."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence

import pytest

from ipam.etcd.client import EtcdStore
from ipam.etcd.etcd_config import EtcdConfig
from ipam.etcd.store import CommitOutcome, Committed, Delete, Guard, Operation
from ipam.failures import StoreUnavailable
from tests.fakes.store import Check, Fault
from tests.fixtures.etcd import Etcd, start_etcd
from tests.scenes.ipam.history import STEPS, History

HISTORIES = 8


class ShakyStore(EtcdStore):
    """A real store whose commits fail by chance, before or after they happened, and are checked one by one."""

    def __init__(self, server: Etcd, seed: int) -> None:
        super().__init__(EtcdConfig((server.endpoint,)))
        self._dice = random.Random(seed)
        self._lock = asyncio.Lock()
        self.chance: dict[Fault, float] = {}
        self.committed: Check = lambda _: None

    async def commit(self, guards: Sequence[Guard], operations: Sequence[Operation]) -> CommitOutcome:
        fault = next((fault for fault, chance in self.chance.items() if self._dice.random() < chance), None)
        if fault is Fault.UNAVAILABLE:
            raise StoreUnavailable(fault.value)
        # Not even a cancelled caller keeps a write that happened from being checked.
        outcome = await asyncio.shield(asyncio.ensure_future(self._checked(guards, operations)))
        if fault is Fault.LOST_REPLY:
            raise StoreUnavailable(fault.value)
        return outcome

    async def _checked(self, guards: Sequence[Guard], operations: Sequence[Operation]) -> CommitOutcome:
        async with self._lock:  # nobody writes between a write and its check
            outcome = await super().commit(guards, operations)
            if isinstance(outcome, Committed):
                self.committed((await self.list("/calico/")).values)
            return outcome


@pytest.fixture(scope="module")
def server() -> Iterator[Etcd]:
    with start_etcd() as running:
        yield running


@pytest.mark.parametrize("seed", range(HISTORIES))
async def test_no_history_on_a_real_etcd_gives_an_address_twice_or_loses_one(seed: int, server: Etcd) -> None:
    store = ShakyStore(server, seed)
    everything = [Delete(key) for key in (await store.list("/calico/")).values]
    for start in range(0, len(everything), 100):
        await store.commit((), everything[start : start + 100])
    history = History(seed, store)
    await history.run()
    await store.close()
    assert history.writes > STEPS / 4
