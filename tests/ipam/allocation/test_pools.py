"""Which pools a request may take addresses from, and in which order they and their blocks are used, as in Calico."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest

from ipam import block as blocks
from ipam.allocation.pool_selection import eligible_pools
from ipam.allocation.release import GuardedAddress
from ipam.codec import encode_block
from ipam.failures import NoPool
from ipam.keys import affinity_key, block_key
from ipam.model import HandleId, Namespace, NodeName, Pool, PoolRecord, Use
from tests.fakes.store import FakeStore
from tests.scenes.ipam.world import START, World, addresses_of, ask


def record(name: str, cidr: str, **settings: Any) -> PoolRecord:
    network = ip_network(cidr)
    return PoolRecord(Pool(name, network, 26 if network.version == 4 else 122, **settings), name, 1)


POOLS = (
    record("a", "10.1.0.0/16"),
    record("b", "10.2.0.0/16"),
    record("c", "10.3.0.0/16", disabled=True),
    record("d", "10.4.0.0/16", node_selector="rack == 'x'"),
    replace(
        record("e", "10.5.0.0/16"), withdrawn="is being deleted (deletionTimestamp 2026-01-01T00:00:00Z)"
    ),
    record("six", "fd00:10::/112"),
)


def chosen(version: int = 4, pools: tuple[PoolRecord, ...] = POOLS, **settings: Any) -> list[str]:
    found = eligible_pools(pools, ask("h", **settings), version)
    return [one.pool.name for one in found.records]


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ((), ["a", "b"]),
        (("b", "a"), ["b", "a"]),
        (("10.2.0.0/16", "a", "b"), ["b", "a"]),
        (("10.2.9.9/16",), ["b"]),  # Go's net.ParseCIDR masks it
        (("d",), ["d"]),  # whatever its selector says
    ],
)
def test_pools_that_are_named_are_used_in_that_order_and_others_in_that_of_their_names(
    named: tuple[str, ...], expected: list[str]
) -> None:
    assert chosen(ipv4_pools=named) == expected


@pytest.mark.parametrize(
    "spelled", ["fd00:10::/112", "FD00:10::0/112", "fd00:0010:0:0::/112", "fd00:10:0:0:0:0:0:0/112", "six"]
)
def test_an_ipv6_pool_is_meant_however_its_network_is_spelled(spelled: str) -> None:
    assert chosen(6, ipv6_pools=(spelled,), ipv6=1) == ["six"]


@pytest.mark.parametrize(
    ("version", "named", "sentence"),
    [
        (
            4,
            "nowhere",
            r"error parsing pool 'nowhere': it is neither a network nor the name of a pool \(a, b",
        ),
        (4, "10.9.0.0/16", r"the given pool \(10.9.0.0/16\) does not exist, or is not enabled"),
        (4, "10.1.0.0/17", r"the given pool \(10.1.0.0/17\) does not exist"),
        (4, "c", r"the given pool \(10.3.0.0/16\) does not exist, or is not enabled: c is disabled"),
        (4, "e", r"\(10.5.0.0/16\) does not exist, or is not enabled: e is being deleted"),
        (4, "six", r"pool six \(fd00:10::/112\) isn't a IPv4 pool"),
        (4, "fd00:10::/112", "fd00:10::/112 is named as a pool, and isn't a IPv4 network"),
        (6, "a", r"pool a \(10.1.0.0/16\) isn't a IPv6 pool"),
    ],
)
def test_a_slip_in_the_names_is_an_error_that_names_it_as_calico_does_and_never_another_pool(
    version: int, named: str, sentence: str
) -> None:
    others = ("a",) if version == 4 else ("six",)
    words = {f"ipv{version}_pools": (*others, named)}
    with pytest.raises(NoPool, match=sentence):
        chosen(version, **words)


async def test_a_slip_in_the_names_of_the_family_that_is_not_asked_for_is_told_too(world: World) -> None:
    await world.pool("p", "10.0.0.0/28")
    with pytest.raises(NoPool, match="error parsing pool 'gone'"):
        await world.allocator().assign(ask("h", ipv4_pools=("p",), ipv6_pools=("gone",)))
    assert await world.held() == {}


def test_a_tunnel_gets_an_address_of_the_pools_it_is_for_though_they_give_no_more_to_pods() -> None:
    assert chosen(ipv4_pools=("c", "e", "a"), use=Use.TUNNEL) == ["c", "e", "a"]


def test_a_pool_that_is_going_or_not_allocatable_gives_nothing_new_and_says_why() -> None:
    found = eligible_pools(POOLS, ask("h"), 4)
    assert "e (10.5.0.0/16): is being deleted (deletionTimestamp 2026-01-01T00:00:00Z)" in found.refused


# -- namespaceSelector ------------------------------------------------------------------------------------------------

PROD = Namespace("shop", (("env", "prod"), ("kubernetes.io/metadata.name", "shop")))
TEST = Namespace("lab", (("env", "test"),))
UNKNOWN = Namespace("new", unknown="there is no profile kns.new")
NO_POD = Namespace()


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        ("", (PROD, TEST, UNKNOWN, NO_POD)),
        (" all( ) ".replace("( )", "()"), (PROD, TEST, UNKNOWN, NO_POD)),
        ("env == 'prod'", (PROD,)),
        ("env != 'prod'", (TEST, NO_POD)),
        ("has(env)", (PROD, TEST)),
        ("!has(env)", (NO_POD,)),
        ("kubernetes.io/metadata.name in {'shop', 'x'}", (PROD,)),
    ],
)
def test_a_pool_is_for_the_namespaces_that_it_selects_and_for_none_whose_labels_are_not_known(
    selector: str, selected: tuple[Namespace, ...]
) -> None:
    pools = (record("a", "10.1.0.0/16", namespace_selector=selector),)
    for namespace in (PROD, TEST, UNKNOWN, NO_POD):
        expected = ["a"] if namespace in selected else []
        assert chosen(pools=pools, namespace=namespace) == expected, namespace
        assert chosen(pools=pools, namespace=namespace, ipv4_pools=("a",)) == ["a"], "named, it is used"


def test_a_refusal_says_which_namespace_and_selector_and_why_labels_are_not_known() -> None:
    pools = (record("a", "10.1.0.0/16", namespace_selector="env == 'prod'"),)
    (refused,) = eligible_pools(pools, ask("h", namespace=TEST), 4).refused
    assert refused == "a (10.1.0.0/16): does not select namespace lab (namespaceSelector env == 'prod')"
    (refused,) = eligible_pools(pools, ask("h", namespace=UNKNOWN), 4).refused
    assert "passed over" in refused
    assert "there is no profile kns.new" in refused


# -- the order of blocks ----------------------------------------------------------------------------------------------


async def own_block(world: World, cidr: str, node: str = "n1") -> None:
    """An empty block of a node, as Calico leaves one."""
    made = blocks.new_block(ip_network(cidr), NodeName(node), blocks.timestamp(START), 1)
    await world.write(block_key(made.cidr), encode_block(made))
    await world.write(affinity_key(NodeName(node), made.cidr), b'{"state":"confirmed"}')


async def test_own_blocks_are_used_in_the_order_of_their_keys_whichever_pool_they_are_of(
    world: World,
) -> None:
    await world.pool("a", "10.0.16.0/24", 26)
    await world.pool("b", "10.0.2.0/24", 26)
    await world.pool("c", "10.0.1.0/24", 26)
    for cidr in ("10.0.2.0/26", "10.0.16.0/26", "10.0.1.64/26", "10.0.1.128/26"):
        await own_block(world, cidr)
    given = await world.allocator().assign(ask("h", ipv4=256))
    order = list(dict.fromkeys(str(one.block) for one in given))
    assert order == ["10.0.1.128/26", "10.0.1.64/26", "10.0.16.0/26", "10.0.2.0/26"], "etcd's order of keys"


async def test_a_new_block_is_claimed_in_the_first_pool_that_is_named_though_another_has_one_to_reclaim(
    world: World,
) -> None:
    await world.pool("a", "10.0.0.0/26", 26)
    await world.pool("b", "10.1.0.0/24", 26)
    await own_block(world, "10.0.0.0/26", "gone")
    world.clock.advance(3600)
    (given,) = await world.allocator().assign(ask("h"))
    assert given.pool == "b", "as in Calico: reclaimed is only when no pool has a free block"
    (given,) = await world.allocator().assign(ask("i", node="n2", ipv4_pools=("b", "a")))
    assert given.pool == "b"
    (given,) = await world.allocator().assign(ask("j", node="n3", ipv4_pools=("a",)))
    assert (given.pool, str(given.block)) == ("a", "10.0.0.0/26")


# -- a pool that stopped selecting the node ---------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["handle", "address"])
async def test_a_block_of_a_pool_that_stopped_selecting_its_owner_goes_with_its_last_address(
    world: World, store: FakeStore, by: str
) -> None:
    await world.pool("b", "10.0.1.0/30", 30, node_selector="rack == 'r1'")
    world.labels[NodeName("n1")] = {"rack": "r1"}
    allocator = world.allocator()
    given = [(await allocator.assign(ask(f"h{number}", labels=(("rack", "r1"),))))[0] for number in range(2)]

    async def release(number: int) -> None:
        if by == "handle":
            await allocator.release_handle(HandleId(f"h{number}"))
        else:
            await allocator.release_addresses([GuardedAddress(given[number].address)])

    await release(0)
    await allocator.assign(ask("h0", labels=(("rack", "r1"),)))
    await world.pool("b", "10.0.1.0/30", 30, node_selector="rack == 'r2'")
    await release(1)
    assert await world.block("10.0.1.0/30") is not None, "an address is still in use"
    await allocator.release_handle(HandleId("h0"))
    assert await world.block("10.0.1.0/30") is None
    assert affinity_key(NodeName("n1"), given[0].block) not in store.copy()
    assert await world.faults() == []
    with pytest.raises(NoPool, match="does not select"):
        await allocator.assign(ask("h3", labels=(("rack", "r1"),)))


@pytest.mark.parametrize("change", ["disabled", "gone", "unknown labels", "selects"])
async def test_a_block_stays_its_owners_where_nothing_says_that_its_pool_deselects_it(
    world: World, change: str
) -> None:
    record = await world.pool("b", "10.0.1.0/30", 30, node_selector="rack == 'r1'")
    allocator = world.allocator()
    await allocator.assign(ask("h", labels=(("rack", "r1"),)))
    world.labels[NodeName("n1")] = {"rack": "r1" if change == "selects" else "other"}
    if change == "disabled":
        world.pools = [replace(record, pool=replace(record.pool, disabled=True))]
    if change == "gone":
        world.pools = []
    if change == "unknown labels":
        world.labels.clear()
    await allocator.release_handle(HandleId("h"))
    block = await world.block("10.0.1.0/30")
    assert block is not None
    assert block.owner == "n1"


# -- blocks too large for etcd ----------------------------------------------------------------------------------------


async def test_a_block_that_etcd_would_not_take_any_more_is_full_and_the_next_one_is_used(
    world: World, store: FakeStore
) -> None:
    await world.pool("p", "10.0.0.0/16", 20)
    allocator = world.allocator()
    (first,) = await allocator.assign(ask("h"))
    stored = json.loads(store.copy()[block_key(first.block)])
    long = [{"handle_id": f"h{number}", "secondary": {"pod": "x" * 440}} for number in range(3000)]
    stored["attributes"] = long
    stored["allocations"] = [*range(3000), *[None] * 1096]
    stored["unallocated"] = [*range(3000, 4096)]
    stored["sequenceNumberForAllocation"] = {}
    await world.write(block_key(first.block), json.dumps(stored).encode())
    (second,) = await world.allocator().assign(ask("i"))
    assert second.block != first.block
    assert addresses_of([second])
