"""A locked datastore (`calicoctl datastore migrate lock`) takes no write of ours, however late we hear of the lock."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.datastore.datastore_lock import (
    CLUSTER_INFORMATIONS,
    LOCK_KEY,
    MOST_ATTEMPTS,
    DatastoreLock,
    LockableStore,
    read_lock,
    with_ready,
)
from agent.datastore.state_cache import StateCache
from ipam.etcd.store import (
    CommitOutcome,
    Committed,
    Delete,
    GuardFailed,
    Operation,
    Put,
    Unchanged,
    Versioned,
)
from ipam.failures import Conflict, DatastoreLocked, Unreadable
from ipam.model import NodeName
from tests.fakes.store import FakeStore
from tests.scenes.cni.cni_world import World

KEY = "/calico/anything"


def information(spec: object) -> bytes:
    return json.dumps({"kind": "ClusterInformation", "metadata": {"name": "default"}, "spec": spec}).encode()


LOCKED = information({"datastoreReady": False, "clusterGUID": "ab"})
READY = information({"datastoreReady": True, "clusterGUID": "ab"})


async def put(store: FakeStore, value: bytes | None) -> int:
    outcome = await store.commit((), (Put(LOCK_KEY, value) if value is not None else Delete(LOCK_KEY),))
    assert isinstance(outcome, Committed)
    return outcome.revision


def written(store: FakeStore) -> bytes | None:
    return store.copy().get(KEY)


@pytest.mark.parametrize(
    ("spec", "is_locked"),
    [
        ({"datastoreReady": False}, True),
        ({"datastoreReady": True}, False),
        ({"datastoreReady": None}, False),
        ({}, False),
    ],
)
def test_only_the_word_false_locks(spec: object, is_locked: bool) -> None:
    lock = read_lock(Versioned(LOCK_KEY, information(spec), 7))
    assert (lock.revision, lock.reason is not None) == (7, is_locked)
    assert not is_locked or LOCK_KEY in (lock.reason or "")
    with pytest.raises(Unreadable):
        read_lock(Versioned(f"{CLUSTER_INFORMATIONS}other", information(spec), 7))


@pytest.mark.parametrize("value", [b"{", b"[]", information([]), information({"datastoreReady": "false"})])
def test_anything_else_there_cannot_be_read(value: bytes) -> None:
    with pytest.raises(Unreadable):
        read_lock(Versioned(LOCK_KEY, value, 7))


def test_locking_and_unlocking_keep_every_other_field() -> None:
    stored = Versioned(LOCK_KEY, information({"clusterGUID": "ab", "later": {"a": 1}}), 7)
    locked = with_ready(stored, "now", ready=False)
    assert json.loads(locked)["spec"] == {"clusterGUID": "ab", "later": {"a": 1}, "datastoreReady": False}
    again = with_ready(Versioned(LOCK_KEY, locked, 8), "now", ready=True)
    assert json.loads(again)["spec"] == {"clusterGUID": "ab", "later": {"a": 1}, "datastoreReady": True}
    made = json.loads(with_ready(None, "2026-01-01T00:00:00Z", ready=False))
    assert (made["kind"], made["metadata"]["name"]) == ("ClusterInformation", "default")
    assert (made["spec"]["datastoreReady"], len(made["spec"]["clusterGUID"])) == (False, 32)


# -- the door ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guards", [(), (Unchanged(KEY, 0),)])
async def test_nothing_is_written_while_it_is_locked_and_everything_is_read(
    guards: tuple[Unchanged, ...],
) -> None:
    store = FakeStore()
    door = LockableStore(store)
    await put(store, LOCKED)
    with pytest.raises(DatastoreLocked, match=LOCK_KEY):
        await door.commit(guards, (Put(KEY, b"1"),))
    assert written(store) is None
    assert await door.get(LOCK_KEY) is not None
    assert isinstance(await door.commit(guards, ()), Committed), "a question writes nothing"
    await put(store, READY)
    assert isinstance(await door.commit(guards, (Put(KEY, b"1"),)), Committed)
    assert written(store) == b"1"


async def test_a_lock_that_the_watch_has_not_told_yet_is_a_lock() -> None:
    store = FakeStore()
    seen = DatastoreLock(await put(store, READY))
    door = LockableStore(store, lambda: seen)
    await put(store, LOCKED)
    with pytest.raises(DatastoreLocked):
        await door.commit((), (Put(KEY, b"1"),))
    assert written(store) is None


@pytest.mark.parametrize("change", [READY + b" ", None, information({})])
async def test_another_change_of_the_same_key_is_seen_by_nobody_who_writes(change: bytes | None) -> None:
    store = FakeStore()
    seen = DatastoreLock(await put(store, READY))
    door = LockableStore(store, lambda: seen)
    await put(store, change)
    assert isinstance(await door.commit((), (Put(KEY, b"1"),)), Committed)
    lost = await door.commit((Unchanged(KEY, 1),), (Put(KEY, b"2"),))
    assert isinstance(lost, GuardFailed)
    assert [*lost.present] == [KEY]
    assert written(store) == b"1"


async def test_a_value_that_cannot_be_read_changes_nothing_and_is_a_lock_where_none_was_ever_read() -> None:
    store = FakeStore()
    before = DatastoreLock(await put(store, READY))
    await put(store, b"{")
    assert isinstance(await LockableStore(store, lambda: before).commit((), (Put(KEY, b"1"),)), Committed)
    with pytest.raises(DatastoreLocked, match="cannot be read"):
        await LockableStore(store).commit((), (Put(KEY, b"2"),))
    assert written(store) == b"1"


class Busy(FakeStore):
    """Somebody writes the lock's key before each commit."""

    async def commit(self, guards: object, operations: object) -> CommitOutcome:
        await super().commit((), (Put(LOCK_KEY, READY),))
        return await super().commit(guards, operations)  # type: ignore[arg-type]


async def test_somebody_who_keeps_writing_the_key_ends_in_a_sentence() -> None:
    store = Busy()
    operations: tuple[Operation, ...] = (Put(KEY, b"1"),)
    with pytest.raises(Conflict, match=LOCK_KEY):
        await LockableStore(store).commit((), operations)
    assert (written(store), store.commits) == (None, MOST_ATTEMPTS)


# -- the watched state -------------------------------------------------------------------------------------------------


def test_the_state_knows_the_lock_as_it_was_last_readable_and_takes_what_it_never_read_for_one() -> None:
    state = StateCache(NodeName("node-1"))
    assert state.lock == DatastoreLock()
    state.apply(LOCK_KEY, Versioned(LOCK_KEY, b"{", 2))
    assert "cannot be read" in (state.lock.reason or "")
    state.apply(LOCK_KEY, Versioned(LOCK_KEY, READY, 3))
    assert state.lock == DatastoreLock(3)
    state.apply(LOCK_KEY, Versioned(LOCK_KEY, b"{", 4))
    assert state.lock == DatastoreLock(3), "its last readable value holds"
    state.apply(LOCK_KEY, Versioned(LOCK_KEY, LOCKED, 5))
    state.apply(LOCK_KEY, Versioned(LOCK_KEY, b"{", 6))
    assert (state.lock.revision, state.lock.reason is not None) == (5, True)
    state.apply(LOCK_KEY, None)
    assert state.lock == DatastoreLock()


# -- attaching pods ----------------------------------------------------------------------------------------------------


@pytest.fixture
async def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    await made.start()
    return made


async def test_an_add_is_refused_with_code_11_and_names_the_key(world: World) -> None:
    await world.lock()
    before = world.store.copy()
    status, answer = await world.call("ADD")
    assert (status, answer["code"]) == (1, 11)
    assert "the datastore is locked" in answer["msg"]
    assert LOCK_KEY in answer["msg"]
    assert world.store.copy() == before
    assert not world.pods.attached
    await world.lock(ready=True)
    assert (await world.call("ADD"))[0] == 0


async def test_a_del_takes_the_device_at_once_and_the_address_after_the_unlocking(world: World) -> None:
    assert (await world.call("ADD"))[0] == 0
    await world.lock()
    before = world.store.copy()
    assert await world.call("DEL") == (0, {})
    assert not world.pods.attached
    assert world.store.copy() == before
    assert len(world.journal()) == 1
    await world.server.release_replay.look()
    assert world.store.copy() == before
    assert len(world.journal()) == 1, "it is kept while the lock stands"
    await world.lock(ready=True)
    await world.server.release_replay.look()
    assert (await world.stored(), world.journal()) == ((0, 0, 0), [])
