"""Findings and repairs: each kind of damage is found, what can be proved is mended, and nothing else is touched."""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_network

import pytest

from ipam.check.audit import audit, decode_snapshot, repairs
from ipam.check.utilization import borrowed_addresses, pool_utilization
from ipam.codec import encode_block
from ipam.etcd.store import Committed, Delete, GuardFailed, Put
from ipam.keys import IPAM, affinity_key, block_key, handle_key
from ipam.model import HandleId, NodeName, Pool
from tests.fakes.store import FakeStore
from tests.scenes.ipam.world import World, ask

CIDR = ip_network("10.0.0.0/30")
BLOCK, CLAIM = block_key(CIDR), affinity_key(NodeName("n1"), CIDR)
H1 = handle_key(HandleId("h1"))


async def healthy(world: World) -> None:
    """One block of n1 with one address of h1 and one borrowed by n2."""
    await world.pool("p", "10.0.0.0/30")
    await world.allocator().assign(ask("h1", "n1"))
    await world.allocator().assign(ask("h2", "n2"))
    assert await world.faults() == []


DAMAGE = [
    ("damaged", [Put(BLOCK, b"{")], False),
    ("damaged", [Put(H1, b"[]")], False),
    ("orphaned-handle", [Put(handle_key(HandleId("h9")), b'{"block":{"10.0.0.0/30":1}}')], True),
    ("miscounting-handle", [Put(H1, b'{"block":{"10.0.0.0/30":1,"10.0.0.4/30":1}}')], True),
    ("miscounting-handle", [Put(H1, b'{"block":{"10.0.0.4/30":1}}')], True),
    ("missing-handle", [Delete(H1)], True),
    ("claim-without-block", [Put(affinity_key(NodeName("n2"), ip_network("10.0.0.4/30")), b"{}")], True),
    ("claim-of-others-block", [Put(affinity_key(NodeName("n2"), CIDR), b"{}")], True),
    ("block-without-claim", [Delete(CLAIM)], True),
]


@pytest.mark.parametrize(("kind", "damage", "mendable"), DAMAGE)
async def test_every_damage_is_found_and_what_is_proved_is_mended(
    world: World, store: FakeStore, kind: str, damage: list[Put | Delete], mendable: bool
) -> None:
    await healthy(world)
    before = store.copy()
    await store.commit((), damage)
    damaged = store.copy()
    seen = decode_snapshot((await store.list(IPAM)).values)
    findings = audit(seen)
    assert {finding.kind for finding in findings} == {kind}
    planned = list(repairs(seen, findings))
    assert len(planned) == mendable
    for repair in planned:
        assert isinstance(await store.commit(*repair.transaction.guards_and_operations), Committed)
        assert dict(repair.before) == {
            key: damaged[key].decode() if key in damaged else None for key in repair.transaction.writes
        }
    if mendable:
        assert await world.faults() == []
        assert {key: value for key, value in store.copy().items() if key != CLAIM} == {
            key: value for key, value in before.items() if key != CLAIM
        }


async def test_a_repair_changes_nothing_when_its_proof_is_old(world: World, store: FakeStore) -> None:
    await healthy(world)
    await world.write(handle_key(HandleId("h9")), b'{"block":{"10.0.0.0/30":1}}')
    seen = decode_snapshot((await store.list(IPAM)).values)
    (repair,) = repairs(seen, audit(seen))
    await world.allocator().assign(ask("h3", "n1"))
    before = store.copy()
    assert isinstance(await store.commit(*repair.transaction.guards_and_operations), GuardFailed)
    assert store.copy() == before


async def test_a_claim_that_is_under_way_is_no_finding(world: World) -> None:
    await healthy(world)
    await world.write(affinity_key(NodeName("n2"), ip_network("10.0.0.4/30")), b'{"state":"pending"}')
    assert await world.faults() == []


async def test_a_handle_that_counts_more_than_it_holds_is_calicos_and_no_finding(world: World) -> None:
    await healthy(world)
    await world.write(H1, b'{"block":{"10.0.0.0/30":7}}')
    assert await world.faults() == []


async def test_a_broken_block_is_named_with_what_is_wrong(world: World, store: FakeStore) -> None:
    await healthy(world)
    raw = json.loads(store.copy()[BLOCK])
    await world.write(BLOCK, json.dumps({**raw, "unallocated": [0, 2, 3, 3]}).encode())
    assert [text.removeprefix("broken-block: block 10.0.0.0/30: ") for text in await world.faults()] == [
        "an ordinal is both free and allocated",
        "an ordinal is free twice",
        "an ordinal is neither free nor allocated",
    ]


async def test_blocks_that_share_addresses_are_found(world: World) -> None:
    await healthy(world)
    block = await world.block("10.0.0.0/30")
    assert block is not None
    raw = json.loads(encode_block(block))
    small = {
        "allocations": [None, None],
        "unallocated": [0, 1],
        "attributes": [],
        "sequenceNumberForAllocation": {},
    }
    cidr = ip_network("10.0.0.2/31")
    await world.write(
        block_key(cidr), json.dumps({**raw, **small, "cidr": str(cidr), "affinity": None}).encode()
    )
    assert await world.faults() == ["overlapping-blocks: blocks 10.0.0.0/30 and 10.0.0.2/31 share addresses"]


async def test_leaks_and_unallocated_addresses_are_reported_and_never_repaired(
    world: World, store: FakeStore
) -> None:
    await healthy(world)
    seen = decode_snapshot((await store.list(IPAM)).values)
    in_use = {ip_address("10.0.0.0"): "endpoint a", ip_address("10.0.0.3"): "endpoint b"}
    found = audit(seen, [Pool("q", ip_network("10.1.0.0/24"), 26)], in_use)
    assert [(finding.kind, str(finding.address)) for finding in found] == [
        ("block-outside-pools", "None"),
        ("leaked-address", "10.0.0.1"),
        ("unallocated-address", "10.0.0.3"),
    ]
    assert list(repairs(seen, found)) == []
    assert found[1].as_json() == {
        "kind": "leaked-address",
        "key": BLOCK,
        "text": "address 10.0.0.1 is allocated to h2 (unknown) and not used: "
        "no endpoint, tunnel or kernel that was read has it",
        "address": "10.0.0.1",
        "handle": "h2",
        "repairable": False,
        "harmless": False,
    }


async def test_an_address_of_a_deleted_pool_is_used_as_long_as_somebody_has_it(
    world: World, store: FakeStore
) -> None:
    await healthy(world)
    seen = decode_snapshot((await store.list(IPAM)).values)
    in_use = {ip_address("10.0.0.0"): "endpoint a"}
    in_kernel = [
        ip_address("10.0.0.1"),
        ip_address("10.0.0.3"),
    ]  # the latter's pod may be younger than the snapshot
    assert [finding.kind for finding in audit(seen, [], in_use, in_kernel=in_kernel)] == [
        "block-outside-pools"
    ]


async def test_nothing_is_called_leaked_while_something_that_may_use_it_cannot_be_read(
    world: World, store: FakeStore
) -> None:
    await healthy(world)
    seen = decode_snapshot((await store.list(IPAM)).values)
    found = audit(seen, None, {ip_address("10.0.0.0"): "endpoint a"}, unknown_users=["/calico/an-endpoint"])
    assert [finding.kind for finding in found] == ["unknown-use"]
    assert found[0].text.endswith("is not known while this cannot be read: /calico/an-endpoint")


async def test_what_a_machine_uses_for_itself_and_lies_in_no_pool_and_no_block_is_no_finding(
    world: World, store: FakeStore
) -> None:
    await healthy(world)
    seen = decode_snapshot((await store.list(IPAM)).values)
    every = dict.fromkeys(CIDR, "somebody")
    found = audit(seen, [], {**every, ip_address("192.0.2.1"): "endpoint of another IPAM"})
    assert [str(finding.address) for finding in found] == ["None", "10.0.0.2", "10.0.0.3"]


@pytest.mark.parametrize(
    "change",
    [
        {"affinity": "virtual:load-balancer"},
        {"attributes": [{"handle_id": "lb-1", "secondary": {"service": "s", "namespace": "n"}}] * 2},
        {"attributes": [{"handle_id": "windows-reserved-ipam-handle", "secondary": {}}] * 2},
    ],
)
async def test_what_calico_allocates_for_no_endpoint_is_not_called_leaked(
    world: World, store: FakeStore, change: dict[str, object]
) -> None:
    await healthy(world)
    raw = {**json.loads(store.copy()[BLOCK]), **change}
    await world.write(BLOCK, json.dumps(raw).encode())
    seen = decode_snapshot((await store.list(IPAM)).values)
    assert "leaked-address" not in {finding.kind for finding in audit(seen, None, {})}


@pytest.mark.parametrize(
    "change",
    [
        {"sequenceNumberForAllocation": {"0": 5, "1": 6, "2": 7, "3": 8}},
        {"more attributes": True},
    ],
    ids=["sequence numbers of free addresses", "attributes of nobody"],
)
async def test_what_calico_leaves_in_a_block_is_told_as_harmless_and_repaired_with_what_matters_kept(
    world: World, store: FakeStore, change: dict[str, object]
) -> None:
    await healthy(world)
    before = json.loads(store.copy()[BLOCK])
    if "more attributes" in change:
        change = {"attributes": [*before["attributes"], {"handle_id": "gone", "secondary": None}]}
    await world.write(BLOCK, json.dumps({**before, **change}).encode())
    seen = decode_snapshot((await store.list(IPAM)).values)
    (finding,) = audit(seen)
    assert (finding.kind, finding.is_harmless, finding.repairable) == ("stale-entries", True, True)
    (repair,) = repairs(seen, [finding])
    assert isinstance(await store.commit(*repair.transaction.guards_and_operations), Committed)
    assert await world.faults() == []
    after = json.loads(store.copy()[BLOCK])
    kept = ("allocations", "unallocated", "attributes", "affinity", "affinity_claim_time")
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert after["sequenceNumberForAllocation"].keys() == {"0", "1"}
    assert after["sequenceNumber"] == before["sequenceNumber"] + 1


async def test_every_address_of_a_pool_is_counted_once(world: World, store: FakeStore) -> None:
    record = await world.pool("p", "10.0.0.0/29")
    await world.rules('{"auto_allocate_blocks":true,"ipCooldownSeconds":60}')
    allocator = world.allocator()
    await allocator.assign(ask("h1", "n1", ipv4=2))
    await allocator.assign(ask("h2", "n1"))
    await allocator.release_handle(HandleId("h2"))
    first = next(iter(await world.held()))
    seen = decode_snapshot((await store.list(IPAM)).values)
    other = ip_network("10.0.0.4/30") if first in CIDR else CIDR
    one = pool_utilization(
        record.pool, seen.blocks.values(), [ip_network(f"{first}/32"), other, ip_network("fd00::/8")]
    )
    assert (one.capacity, one.used, one.borrowed, one.cooling, one.reserved, one.free) == (8, 2, 0, 1, 4, 1)


async def test_borrowed_addresses_are_counted_with_the_borrower(world: World, store: FakeStore) -> None:
    await healthy(world)
    seen = decode_snapshot((await store.list(IPAM)).values)
    (loan,) = borrowed_addresses(seen.blocks.values())
    assert (str(loan.address), loan.borrower, loan.owner) == ("10.0.0.1", "n2", "n1")


async def test_a_living_pod_whose_address_is_nobodys_or_anothers_is_named_and_never_repaired(
    world: World, store: FakeStore
) -> None:
    await healthy(world)
    held = await world.held()
    (address, handle), *_ = held.items()
    free = next(one for one in ip_network("10.0.0.0/24") if one not in held)
    living = {
        address: (HandleId(handle), "default/known"),
        free: (HandleId("net.c8"), "default/lost"),
    }
    seen = decode_snapshot((await store.list(IPAM)).values)
    (finding,) = audit(seen, living=living)
    assert f"{free} of pod default/lost, which lives here, is allocated to nobody" in finding.text
    (finding,) = audit(seen, living={address: (HandleId("net.c9"), "default/twice")})
    assert f"{address} of pod default/twice, which lives here, is allocated to {handle}" in finding.text
    assert (finding.kind, list(repairs(seen, [finding]))) == ("living-pod-without-address", [])


async def test_an_address_that_a_tunnel_bears_and_somebody_else_has_is_found_with_both(world: World) -> None:
    await world.pool("p", "10.0.0.0/29")
    allocator = world.allocator()
    tunnel = (("node", "n1"), ("type", "vxlanTunnelAddress"))
    mine = await allocator.assign(ask("vxlan-tunnel-addr-n1", "n1", secondary=tunnel))
    pods = await allocator.assign(ask("h1", "n1"))
    legacy = await allocator.assign(ask("ipip-tunnel-addr-n1", "n1", secondary=()))
    seen = decode_snapshot((await world.store.list(IPAM)).values)
    sound = {mine[0].address: ["n1"], legacy[0].address: ["n1"], ip_address("10.0.0.7"): ["n2"]}
    assert audit(seen, tunnels=sound) == ()
    for tunnels, of_endpoints, words in (
        ({pods[0].address: ["n1"]}, {}, "handle h1, to which it is allocated"),
        ({mine[0].address: ["n1"]}, {mine[0].address: "endpoint default/w"}, "endpoint default/w"),
        ({mine[0].address: ["n1", "n2"]}, {}, "the tunnel of node n2"),
    ):
        (found,) = audit(seen, tunnels=tunnels, of_endpoints=of_endpoints)
        assert (found.kind, found.repairable, found.is_harmless) == (
            "tunnel-address-used-twice",
            False,
            False,
        )
        assert f"is on a tunnel of node n1, and also of {words}" in found.text
