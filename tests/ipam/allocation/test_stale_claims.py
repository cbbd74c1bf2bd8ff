"""Claims that somebody began and left are ended, with the same look twice as proof."""

from __future__ import annotations

import json
from ipaddress import ip_network

import pytest

from ipam import block as blocks
from ipam.allocation.stale_claims import end_stale_claims, unfinished_claims
from ipam.codec import encode_block
from ipam.keys import affinity_key, block_key
from ipam.model import NodeName
from tests.fakes.store import FakeStore
from tests.scenes.ipam.world import START, World

NODE, CIDR = NodeName("n1"), ip_network("10.0.0.0/26")
KEY = affinity_key(NODE, CIDR)


async def claimed(world: World, state: str, owner: str | None) -> None:
    await world.write(KEY, json.dumps({"state": state, "deleted": False}).encode())
    if owner is not None:
        made = blocks.new_block(CIDR, NodeName(owner), blocks.timestamp(START), 1)
        await world.write(block_key(CIDR), encode_block(made))


@pytest.mark.parametrize(
    ("state", "owner", "left"),
    [
        ("pending", None, None),
        ("pending", "n2", None),
        ("pending", "n1", "confirmed"),
        ("pendingDeletion", None, None),
        ("pendingDeletion", "n2", None),
        ("pendingDeletion", "n1", "pendingDeletion"),
        ("confirmed", "n2", "confirmed"),
    ],
)
async def test_what_is_the_nodes_own_block_is_confirmed_and_what_is_nobodys_or_anothers_given_up(
    world: World, store: FakeStore, state: str, owner: str | None, left: str | None
) -> None:
    await claimed(world, state, owner)
    before = await unfinished_claims(store, NODE)
    await end_stale_claims(store, before, await unfinished_claims(store, NODE))
    found = store.copy().get(KEY)
    assert (json.loads(found)["state"] if found is not None else None) == left


async def test_a_claim_that_was_written_between_two_looks_is_under_way(
    world: World, store: FakeStore
) -> None:
    await claimed(world, "pending", None)
    before = await unfinished_claims(store, NODE)
    await claimed(world, "pending", None)
    now = await unfinished_claims(store, NODE)
    assert await end_stale_claims(store, before, now) == ()
    assert await end_stale_claims(store, {}, now) == ()
    assert KEY in store.copy()


async def test_a_block_that_comes_between_look_and_write_keeps_its_claim(
    world: World, store: FakeStore
) -> None:
    await claimed(world, "pending", None)
    now = await unfinished_claims(store, NODE)
    await claimed(world, "pending", "n1")
    assert await end_stale_claims(store, now, now) == ()
    assert KEY in store.copy()


async def test_a_claim_or_a_block_that_cannot_be_read_is_left_alone(world: World, store: FakeStore) -> None:
    await claimed(world, "pending", None)
    await world.write(block_key(CIDR), b"{")
    await world.write(affinity_key(NODE, ip_network("10.0.1.0/26")), b"{")
    now = await unfinished_claims(store, NODE)
    assert await end_stale_claims(store, now, now) == ()
    assert KEY in store.copy()
