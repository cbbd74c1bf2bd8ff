"""Blocks of two sizes that share addresses, as a pool made anew with another blockSize leaves: none given twice."""

from __future__ import annotations

import json
import random
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import pytest

from ipam import block as blocks
from ipam.allocation.block_cache import overlapping_blocks
from ipam.codec import encode_block
from ipam.failures import AddressInUse, PoolExhausted, Refused
from ipam.keys import affinity_key, block_key, inner_block_prefixes, overlapping_block_keys
from ipam.model import BLOCK_LENGTHS, Attributes, HandleId, NodeName, Prefix
from tests.fakes.store import FakeStore
from tests.scenes.ipam.world import START, World, addresses_of, ask


async def stray(world: World, cidr: str, node: str = "n2", used: int = 0) -> None:
    """Another node's block, with so many addresses in use, and its claim."""
    made = blocks.new_block(ip_network(cidr), NodeName(node), blocks.timestamp(START), 1)
    if used:
        made, _ = blocks.assign(made, used, Attributes(HandleId("old"), (("node", node),)))
    await world.write(block_key(made.cidr), encode_block(made))
    await world.write(affinity_key(NodeName(node), made.cidr), b'{"state":"confirmed"}')


@pytest.mark.parametrize("size", [28, 32, 24])
async def test_a_block_that_overlaps_one_of_another_size_is_passed_over_and_told(
    world: World, size: int
) -> None:
    await world.pool("p", "10.0.0.0/24", 26)
    allocator = world.allocator()
    where = (await allocator.assign(ask("probe")))[0].block
    await allocator.release_handle(HandleId("probe"))
    await allocator.release_node(NodeName("n1"))
    other = where.supernet(new_prefix=size) if size < 26 else next(where.subnets(new_prefix=size))
    await stray(world, str(other), used=1)
    fresh = world.allocator()
    if size == 24:
        await world.rules('{"strict_affinity":true,"auto_allocate_blocks":true}')
        with pytest.raises(PoolExhausted, match=f"overlaps block {other}"):
            await fresh.assign(ask("h"))
    else:
        (given,) = await fresh.assign(ask("h"))
        assert given.block != where
        assert not given.block.overlaps(other)
        assert (where, other) in fresh.passed_over.items()
    assert not any("overlapping" in fault for fault in await world.faults())


async def test_no_address_is_given_of_an_own_block_that_another_claims_meanwhile(world: World) -> None:
    await world.pool("p", "10.0.0.0/26", 26)
    await world.allocator().assign(ask("h"))
    await stray(world, "10.0.0.16/28", used=16)
    await stray(world, "10.0.0.32/32")
    world.claims = [
        ip_network(cidr) for cidr in ("10.0.0.0/26", "10.0.0.16/28", "10.0.0.32/32", "10.9.0.0/28")
    ]
    fresh = world.allocator()
    given = {one.address for one in await fresh.assign(ask("i", ipv4=46))}
    assert given.isdisjoint({*ip_network("10.0.0.16/28"), ip_address("10.0.0.32")})
    with pytest.raises(PoolExhausted):
        await fresh.assign(ask("j"))
    assert ip_network("10.0.0.0/26") in fresh.passed_over


async def test_nothing_is_given_of_an_own_block_inside_of_anothers(world: World) -> None:
    await world.pool("p", "10.0.0.0/25", 26)
    (mine,) = await world.allocator().assign(ask("h"))
    await stray(world, "10.0.0.0/24", used=1)
    world.claims = [mine.block, ip_network("10.0.0.0/24")]
    fresh = world.allocator()
    with pytest.raises(PoolExhausted, match=f"{mine.block} overlaps block 10.0.0.0/24"):
        await fresh.assign(ask("i"))


async def test_nothing_is_borrowed_of_blocks_that_overlap_each_other(world: World) -> None:
    await world.pool("p", "10.0.0.0/26", 26)
    await stray(world, "10.0.0.0/26")
    await stray(world, "10.0.0.16/28", "n3", used=16)
    with pytest.raises(PoolExhausted, match="overlaps block"):
        await world.allocator().assign(ask("h", ipv4=20))


async def test_a_chosen_address_is_of_the_block_that_stands_there_already(world: World) -> None:
    await world.pool("p", "10.0.0.0/24", 26)
    await stray(world, "10.0.0.0/28", used=2)
    allocator = world.allocator()
    with pytest.raises(AddressInUse, match="is allocated to old"):
        await allocator.assign(ask("h", exact=(ip_address("10.0.0.1"),)))
    (given,) = await allocator.assign(ask("h", exact=(ip_address("10.0.0.9"),)))
    assert str(given.block) == "10.0.0.0/28"
    with pytest.raises(Refused, match=r"a new block 10\.0\.0\.0/26 would overlap 10\.0\.0\.0/28"):
        await allocator.assign(ask("i", exact=(ip_address("10.0.0.40"),)))
    assert not any("overlapping" in fault for fault in await world.faults())


async def test_a_chosen_address_that_an_overlapping_block_has_given_is_in_use(world: World) -> None:
    await world.pool("p", "10.0.0.0/24", 26)
    await stray(world, "10.0.0.0/28", used=2)
    await stray(world, "10.0.0.0/26", "n1")
    with pytest.raises(AddressInUse, match="is allocated to old"):
        await world.allocator().assign(ask("h", exact=(ip_address("10.0.0.1"),)))


@pytest.mark.parametrize("version", [4, 6])
async def test_every_overlapping_block_is_found_by_the_keys_that_are_read(
    store: FakeStore, version: int
) -> None:
    chance = random.Random(version)
    whole = ip_network("10.0.0.0/16" if version == 4 else "fd00:0:0:1::/112")
    lengths = list(BLOCK_LENGTHS[version])

    def some() -> Prefix:
        offset = chance.choice([0, 1, 64, chance.randrange(1 << 16)])
        made = type(whole)((int(whole.network_address) + offset, whole.max_prefixlen))
        return made.supernet(new_prefix=chance.choice(lengths))

    for _ in range(400):
        wanted, other = some(), some()
        assert isinstance(wanted, IPv4Network | IPv6Network)
        key = block_key(other)
        read = key in overlapping_block_keys(wanted) or key.startswith(inner_block_prefixes(wanted))
        assert read or not other.overlaps(wanted) or other == wanted, (wanted, other)


async def test_a_block_that_cannot_be_read_is_passed_over_like_another(world: World) -> None:
    await world.write(block_key(ip_network("10.0.0.0/28")), json.dumps({"cidr": "10.0.0.0/28"}).encode())
    assert [*await overlapping_blocks(world.store, ip_network("10.0.0.0/26"))] == [ip_network("10.0.0.0/28")]
    await world.pool("p", "10.0.0.0/25", 26)
    given = await world.allocator().assign(ask("h"))
    assert [str(one.block) for one in given] == ["10.0.0.64/26"]
    assert addresses_of(given) == ["10.0.0.64"]
