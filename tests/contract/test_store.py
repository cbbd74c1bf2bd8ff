"""What every store promises: on a real etcd, on the fake, behind the door that a lock closes, and on a dry run.

A dry run leaves the store behind it alone.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

import pytest

from agent.datastore.datastore_lock import LockableStore
from ipam.etcd.client import EtcdStore
from ipam.etcd.dry_run_store import DryRunStore
from ipam.etcd.etcd_config import EtcdConfig
from ipam.etcd.store import (
    MOST_OPERATIONS,
    Changed,
    Committed,
    Delete,
    GuardFailed,
    NoneNewer,
    Put,
    Store,
    Unchanged,
)
from ipam.failures import Compacted, StoreRefused, StoreUnavailable
from tests.fakes.store import FakeStore
from tests.fixtures.etcd import Etcd, start_etcd

NUMBER = itertools.count()
LASTING = pytest.mark.parametrize("store", ["fake", "etcd", "lockable"], indirect=True)
"""A store that watches and leases: what a dry run writes is not heard of, and does not end."""


@pytest.fixture(scope="module")
def server() -> Iterator[Etcd]:
    with start_etcd() as running:
        yield running


@pytest.fixture(params=["fake", "etcd", "lockable", "dry run"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    made: Store
    behind = FakeStore()
    if request.param == "etcd":
        made = EtcdStore(EtcdConfig((request.getfixturevalue("server").endpoint,)))
    elif request.param == "lockable":
        made = LockableStore(EtcdStore(EtcdConfig((request.getfixturevalue("server").endpoint,))))
    else:
        made = behind if request.param == "fake" else DryRunStore(behind)
    yield made
    await made.close()
    if request.param == "dry run":
        assert (behind.copy(), behind.commits) == ({}, 0)


@pytest.fixture
def root() -> str:
    return f"/test/{next(NUMBER)}/"


async def put(store: Store, key: str, value: bytes) -> int:
    outcome = await store.commit((), (Put(key, value),))
    assert isinstance(outcome, Committed)
    return outcome.revision


async def changes(store: Store, prefix: str, start: int, count: int) -> list[Changed]:
    found: list[Changed] = []
    async with asyncio.timeout(10), aclosing(store.watch(prefix, start)) as events:  # type: ignore[type-var]
        async for event in events:
            if isinstance(event, Changed):
                found.append(event)
            if len(found) == count:
                break
    return found


async def test_a_missing_key_reads_as_nothing(store: Store, root: str) -> None:
    assert await store.get(f"{root}a") is None
    assert await store.get_many([f"{root}a", f"{root}b"]) == {}
    assert (await store.list(root)).values == {}


async def test_a_value_has_the_revision_of_its_commit(store: Store, root: str) -> None:
    revision = await put(store, f"{root}a", b"1")
    found = await store.get(f"{root}a")
    assert found is not None
    assert (found.key, found.value, found.revision, found.lease) == (f"{root}a", b"1", revision, 0)


async def test_more_keys_than_a_transaction_takes_are_read_at_once(store: Store, root: str) -> None:
    keys = [f"{root}{number:04}" for number in range(MOST_OPERATIONS * 2 + 10)]
    for start in range(0, len(keys), MOST_OPERATIONS):
        await store.commit((), [Put(key, key.encode()) for key in keys[start : start + MOST_OPERATIONS]])
    found = await store.get_many([*keys, f"{root}missing"])
    assert {key: value.value for key, value in found.items()} == {key: key.encode() for key in keys}


async def test_a_list_of_several_pages_is_of_one_revision(store: Store, root: str) -> None:
    keys = [f"{root}{number:04}" for number in range(1200)]
    for start in range(0, len(keys), MOST_OPERATIONS):
        await store.commit((), [Put(key, b"0") for key in keys[start : start + MOST_OPERATIONS]])
    await put(store, root.rstrip("/") + "0", b"beside the prefix")
    done = asyncio.Event()

    async def rewrite() -> None:
        for number in itertools.count(1):
            if done.is_set():
                return
            text = str(number).encode()
            await store.commit((), (Put(keys[0], text), Put(keys[-1], text)))
            await asyncio.sleep(0)

    writer = asyncio.create_task(rewrite())
    for _ in range(5):
        listing = await store.list(root)
        assert sorted(listing.values) == keys
        assert listing.values[keys[0]].value == listing.values[keys[-1]].value
        assert max(value.revision for value in listing.values.values()) <= listing.revision
    done.set()
    await writer


async def test_keys_are_counted_without_being_read_and_a_watch_goes_on_from_the_count(
    store: Store, root: str
) -> None:
    assert (await store.count(root)).count == 0
    keys = [f"{root}{number:04}" for number in range(300)]
    for start in range(0, len(keys), MOST_OPERATIONS):
        await store.commit((), [Put(key, b"0" * 10_000) for key in keys[start : start + MOST_OPERATIONS]])
    await put(store, root.rstrip("/") + "0", b"beside the prefix")
    await put(store, keys[0], b"again")
    found = await store.count(root)
    assert found.count == len(keys)
    assert found.revision >= max(value.revision for value in (await store.list(root)).values.values())
    await store.commit((), (Delete(keys[0]),))
    assert (await store.count(root)).count == len(keys) - 1


@LASTING
async def test_a_watch_behind_a_count_has_what_came_after_it(store: Store, root: str) -> None:
    await put(store, f"{root}a", b"1")
    counted = await store.count(root)
    await put(store, f"{root}b", b"2")
    (event,) = await changes(store, root, counted.revision + 1, 1)
    assert event.key == f"{root}b"


@LASTING
async def test_a_watch_of_keys_has_the_changes_of_these_alone(store: Store, root: str) -> None:
    keys = [f"{root}{number:03}" for number in range(200)]
    first = await put(store, keys[0], b"1")
    await put(store, f"{keys[0]}x", b"no key of these, but it begins like one")
    found: dict[str, list[bytes | None]] = {}
    async with asyncio.timeout(10), aclosing(store.watch_keys(keys, first)) as events:  # type: ignore[type-var]
        async for event in events:
            if isinstance(event, Changed):
                found.setdefault(event.key, []).append(event.value.value if event.value else None)
                if found == {keys[0]: [b"1"]}:
                    await store.commit((), (Put(keys[7], b"a"), Put(keys[199], b"b"), Put(f"{root}200", b"")))
                    await store.commit((), (Delete(keys[7]),))
            if sum(map(len, found.values())) == 4:
                break
    assert found == {keys[0]: [b"1"], keys[7]: [b"a", None], keys[199]: [b"b"]}


async def test_a_commit_with_a_broken_guard_writes_nothing_and_shows_what_is_there(
    store: Store, root: str
) -> None:
    revision = await put(store, f"{root}a", b"1")
    outcome = await store.commit(
        (Unchanged(f"{root}a", revision - 1), Unchanged(f"{root}b", 0)),
        (Put(f"{root}a", b"2"), Put(f"{root}c", b"2")),
    )
    assert isinstance(outcome, GuardFailed)
    present = outcome.present[f"{root}a"]
    assert present is not None
    assert (present.value, present.revision) == (b"1", revision)
    assert outcome.present[f"{root}b"] is None
    assert await store.get(f"{root}c") is None


async def test_revision_zero_guards_that_a_key_does_not_exist(store: Store, root: str) -> None:
    first = await store.commit((Unchanged(f"{root}a", 0),), (Put(f"{root}a", b"1"),))
    second = await store.commit((Unchanged(f"{root}a", 0),), (Put(f"{root}a", b"2"),))
    assert isinstance(first, Committed)
    assert isinstance(second, GuardFailed)


async def test_a_guarded_prefix_holds_while_nothing_below_it_is_written(store: Store, root: str) -> None:
    revision = (await store.list(root)).revision
    assert isinstance(await store.commit((NoneNewer(root, revision),), ()), Committed), "none is there"
    written = await put(store, f"{root}a", b"1")
    await put(store, f"{root[:-1]}-beside", b"1")
    lost = await store.commit((Unchanged(f"{root}b", 0), NoneNewer(root, revision)), (Put(f"{root}b", b"2"),))
    assert lost == GuardFailed({f"{root}b": None})
    assert isinstance(
        await store.commit((NoneNewer(root, written), Unchanged(f"{root}b", 0)), (Put(f"{root}b", b"2"),)),
        Committed,
    )
    latest = (await store.list(root)).revision
    await store.commit((), (Delete(f"{root}a"),))
    assert isinstance(await store.commit((NoneNewer(root, latest),), ()), Committed), "a deletion is none"


async def test_everything_one_commit_writes_has_one_revision(store: Store, root: str) -> None:
    await put(store, f"{root}old", b"1")
    outcome = await store.commit((), (Put(f"{root}a", b"1"), Put(f"{root}b", b"2"), Delete(f"{root}old")))
    assert isinstance(outcome, Committed)
    listing = await store.list(root)
    assert {key: value.revision for key, value in listing.values.items()} == {
        f"{root}a": outcome.revision,
        f"{root}b": outcome.revision,
    }


async def test_deleting_a_missing_key_is_no_error(store: Store, root: str) -> None:
    assert isinstance(await store.commit((), (Delete(f"{root}a"),)), Committed)


async def test_a_transaction_is_bounded_and_names_a_key_once(store: Store, root: str) -> None:
    with pytest.raises(ValueError, match="at most 128"):
        await store.commit((), [Delete(f"{root}{number}") for number in range(MOST_OPERATIONS + 1)])
    with pytest.raises(StoreRefused, match="duplicate key"):
        await store.commit((), (Put(f"{root}a", b"1"), Put(f"{root}a", b"2")))


@LASTING
async def test_a_watch_continues_a_list_without_a_gap(store: Store, root: str) -> None:
    await put(store, f"{root}before", b"1")
    listing = await store.list(root)
    revisions = [await put(store, f"{root}{number}", str(number).encode()) for number in range(5)]
    await put(store, "/test/elsewhere", b"1")
    await store.commit((), (Delete(f"{root}3"),))
    found = await changes(store, root, listing.revision + 1, 6)
    assert [(change.key, change.value.value if change.value else None) for change in found] == [
        *((f"{root}{number}", str(number).encode()) for number in range(5)),
        (f"{root}3", None),
    ]
    assert [change.revision for change in found[:5]] == revisions


@LASTING
async def test_a_watch_delivers_what_happens_after_it_began(store: Store, root: str) -> None:
    listing = await store.list(root)
    watching = asyncio.create_task(changes(store, root, listing.revision + 1, 1))
    await asyncio.sleep(0)
    await put(store, f"{root}a", b"1")
    assert [change.key for change in await watching] == [f"{root}a"]


@LASTING
async def test_a_watch_from_a_compacted_revision_says_so(store: Store, root: str, server: Etcd) -> None:
    first = await put(store, f"{root}a", b"1")
    await put(store, f"{root}a", b"2")
    latest = await put(store, f"{root}a", b"3")
    (store if isinstance(store, FakeStore) else server).compact(latest)
    with pytest.raises(Compacted):
        await changes(store, root, first, 3)


@LASTING
async def test_keys_vanish_with_their_lease(store: Store, root: str) -> None:
    lease = await store.grant_lease(60)
    await store.commit((), (Put(f"{root}a", b"1", lease),))
    found = await store.get(f"{root}a")
    assert found is not None
    assert found.lease == lease
    assert await store.keep_alive(lease)
    await store.revoke_lease(lease)
    assert await store.get(f"{root}a") is None
    assert not await store.keep_alive(lease)
    await store.revoke_lease(lease)
    with pytest.raises(StoreRefused, match="lease not found"):
        await store.commit((), (Put(f"{root}a", b"1", lease),))


@LASTING
async def test_closing_the_store_ends_its_watches(store: Store, root: str) -> None:
    listing = await store.list(root)
    watching = asyncio.create_task(changes(store, root, listing.revision, 1))
    await put(store, "/test/other", b"1")  # gives the watch time to begin
    await store.close()
    with pytest.raises(StoreUnavailable):
        await watching


async def test_a_key_that_is_no_utf8_is_a_key_like_others(store: Store, root: str) -> None:
    odd, plain = f"{root}\udcff\udc80", f"{root}x"
    await put(store, plain, b"1")
    revision = await put(store, odd, b"2")
    listing = await store.list(root)
    assert {key: value.value for key, value in listing.values.items()} == {odd: b"2", plain: b"1"}
    found = await store.get(odd)
    assert found is not None
    assert (found.key, found.revision) == (odd, revision)
    assert list(await store.get_many([odd])) == [odd]
    assert isinstance(await store.commit((Unchanged(odd, revision),), (Delete(odd),)), Committed)
    assert list((await store.list(root)).values) == [plain]


@LASTING
async def test_a_watch_goes_on_behind_a_key_that_is_no_utf8(store: Store, root: str) -> None:
    revision = await put(store, f"{root}a", b"1")
    await put(store, f"{root}\udcff", b"2")
    await put(store, f"{root}b", b"3")
    found = await changes(store, root, revision, 3)
    assert [change.key for change in found] == [f"{root}a", f"{root}\udcff", f"{root}b"]
