"""A rehearsal reads and commits as every store does, and what is behind it stays as it was."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from ipam.etcd.dry_run_store import Rehearsal
from ipam.etcd.store import Committed, Delete, Put, Store, Unchanged
from tests.contract import test_store as contract
from tests.fakes.store import FakeStore

CHECKS: list[Callable[[Store, str], Awaitable[None]]] = [
    contract.test_a_missing_key_reads_as_nothing,
    contract.test_a_value_has_the_revision_of_its_commit,
    contract.test_more_keys_than_a_transaction_takes_are_read_at_once,
    contract.test_a_list_of_several_pages_is_of_one_revision,
    contract.test_a_commit_with_a_broken_guard_writes_nothing_and_shows_what_is_there,
    contract.test_revision_zero_guards_that_a_key_does_not_exist,
    contract.test_everything_one_commit_writes_has_one_revision,
    contract.test_deleting_a_missing_key_is_no_error,
    contract.test_a_transaction_is_bounded_and_names_a_key_once,
]
"""All of the contract but watches and leases: what is rehearsed is not heard, and does not end."""


@pytest.mark.parametrize("check", CHECKS, ids=[check.__name__.removeprefix("test_") for check in CHECKS])
async def test_a_rehearsal_keeps_the_contract(check: Callable[[Store, str], Awaitable[None]]) -> None:
    behind = FakeStore()
    await check(Rehearsal(behind), "/test/")
    assert behind.copy() == {}
    assert behind.commits == 0


async def test_what_is_stored_is_seen_through_what_was_rehearsed() -> None:
    behind = FakeStore()
    for key in ("/a", "/b", "/c"):
        await behind.commit((), (Put(key, b"old"),))
    kept = await behind.get("/a")
    assert kept is not None
    rehearsal = Rehearsal(behind)
    done = await rehearsal.commit((Unchanged("/a", kept.revision),), (Put("/a", b"new"), Delete("/b")))
    assert isinstance(done, Committed)
    listing = await rehearsal.list("/")
    assert {key: value.value for key, value in listing.values.items()} == {"/a": b"new", "/c": b"old"}
    assert listing.revision == done.revision
    assert await rehearsal.get("/b") is None
    assert (await behind.list("/")).values.keys() == {"/a", "/b", "/c"}
