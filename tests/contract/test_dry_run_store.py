"""A dry run shows what is stored through what it wrote; that it keeps a store's contract is in test_store.py."""

from __future__ import annotations

from ipam.etcd.dry_run_store import DryRunStore
from ipam.etcd.store import Committed, Delete, Put, Unchanged
from tests.fakes.store import FakeStore


async def test_what_is_stored_is_seen_through_what_a_dry_run_wrote() -> None:
    behind = FakeStore()
    for key in ("/a", "/b", "/c"):
        await behind.commit((), (Put(key, b"old"),))
    found = await behind.get("/a")
    assert found is not None
    dry_run = DryRunStore(behind)
    done = await dry_run.commit((Unchanged("/a", found.revision),), (Put("/a", b"new"), Delete("/b")))
    assert isinstance(done, Committed)
    listing = await dry_run.list("/")
    assert {key: value.value for key, value in listing.values.items()} == {"/a": b"new", "/c": b"old"}
    assert listing.revision == done.revision
    assert await dry_run.get("/b") is None
    assert (await behind.list("/")).values.keys() == {"/a", "/b", "/c"}
