"""Blocks of two sizes that share addresses are a trouble for as long as both are there."""

from __future__ import annotations

from ipaddress import IPv4Network

from agent.datastore.block_overlaps import BlockOverlaps
from ipam.etcd.store import Delete, Put
from ipam.keys import block_key
from tests.fakes.store import FakeStore


async def test_blocks_that_overlap_are_a_trouble_as_long_as_both_are_there() -> None:
    store = FakeStore()
    ours, other = IPv4Network("10.9.0.0/26"), IPv4Network("10.9.0.0/28")
    overlaps = BlockOverlaps(store, lambda: {ours: other})
    assert len(list(overlaps.troubles())) == 1, "the allocator has seen it just now"
    await overlaps.look()
    assert list(overlaps.troubles()) == []
    await store.commit((), (Put(block_key(other), b"{}"),))
    await overlaps.look()
    (trouble,) = overlaps.troubles()
    assert str(trouble).startswith("block 10.9.0.0/26: it overlaps block 10.9.0.0/28, of another size")
    await store.commit((), (Delete(block_key(other)),))
    await overlaps.look()
    assert list(overlaps.troubles()) == []
