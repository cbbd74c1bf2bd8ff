"""One block's arithmetic: whatever is done to it in whatever order, it stays sound and gives no address twice."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipam import block as blocks
from ipam.model import Attributes, Block, HandleId, NodeName

NOW = datetime(2026, 1, 2, tzinfo=UTC)
HANDLES = [HandleId(f"h{number}") for number in range(4)]
STEP = st.tuples(
    st.sampled_from(["assign", "exactly", "release", "release handle", "cool", "thaw", "disown"]),
    st.integers(0, 15),
    st.sampled_from(HANDLES),
    st.integers(1, 4),
)


def fresh(cidr: str = "10.0.0.0/28") -> Block:
    return blocks.new_block(ip_network(cidr), NodeName("n1"), "2026-01-02T03:04:05Z", 1000)


def step(block: Block, what: str, ordinal: int, handle: HandleId, count: int) -> Block:
    attributes = Attributes(handle, (("node", "n1"),))
    stamp = (NOW - timedelta(seconds=ordinal)).isoformat()
    try:
        match what:
            case "assign":
                return blocks.assign(block, count, attributes, frozenset({ordinal}))[0]
            case "exactly":
                return blocks.assign_ordinal(block, ordinal, attributes)
            case "release":
                return blocks.release(block, range(ordinal, min(ordinal + count, 16)))
            case "release handle":
                return blocks.release_handle(block, handle)[0]
            case "cool":
                return blocks.release(block, [ordinal], stamp)
            case "thaw":
                return blocks.end_cooldown(block, NOW, count * 4)
            case _:
                return blocks.without_owner(block)
    except blocks.BlockFull:
        return block


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(STEP, max_size=40))
def test_a_block_stays_sound_whatever_is_done_to_it(steps: list[tuple[str, int, HandleId, int]]) -> None:
    block = fresh()
    for what, ordinal, handle, count in steps:
        before = dict(blocks.allocated(block))
        changed = step(block, what, ordinal, handle, count)
        assert blocks.broken_invariants(changed) == ()
        assert changed.sequence >= block.sequence
        after = dict(blocks.allocated(changed))
        if what in ("assign", "exactly"):
            assert before.items() <= after.items()
        if what in ("release", "release handle", "cool", "thaw", "disown"):
            assert after.items() <= before.items()
        block = changed


def test_an_allocation_carries_the_sequence_before_its_write() -> None:
    block, addresses = blocks.assign(fresh(), 2, Attributes(HANDLES[0]))
    assert [str(address) for address in addresses] == ["10.0.0.0", "10.0.0.1"]
    assert block.sequence == 1001
    assert block.sequence_of == ((0, 1000), (1, 1000))


def test_equal_attributes_are_stored_once_and_unused_ones_dropped() -> None:
    block, _ = blocks.assign(fresh(), 1, Attributes(HANDLES[0]))
    block, _ = blocks.assign(block, 1, Attributes(HANDLES[1]))
    block, _ = blocks.assign(block, 1, Attributes(HANDLES[0]))
    assert block.allocations[:3] == (0, 1, 0)
    block = blocks.release(block, [1])
    assert block.attributes == (Attributes(HANDLES[0]),)
    assert blocks.release(block, [1]) is block


def test_a_cooled_address_is_free_after_its_time_and_not_before() -> None:
    block, _ = blocks.assign(fresh(), 1, Attributes(HANDLES[0]))
    block = blocks.release(block, [0], "2026-01-01T23:59:30Z")
    assert 0 not in block.unallocated
    assert blocks.allocations_of(block, HANDLES[0]) == ()
    assert not blocks.is_empty(block)
    assert blocks.end_cooldown(block, NOW, 31) is block
    assert blocks.end_cooldown(block, NOW, 30).unallocated[-1] == 0


@pytest.mark.parametrize("stamp", ["yesterday", "2026-01-01T23:59:30", "9999-99-99T00:00:00Z"])
def test_a_stamp_nobody_can_read_holds_no_address(stamp: str) -> None:
    block, _ = blocks.assign(fresh(), 1, Attributes(HANDLES[0]))
    assert 0 in blocks.end_cooldown(blocks.release(block, [0], stamp), NOW, 3600).unallocated


def test_a_handle_is_found_behind_what_calico_appends() -> None:
    block, _ = blocks.assign(fresh(), 1, Attributes(HandleId("h0\rrest")))
    assert [ordinal for ordinal, _ in blocks.allocations_of(block, HANDLES[0])] == [0]


def test_reserved_ordinals_are_those_inside_the_block() -> None:
    reservations = [ip_network("10.0.0.14/31"), ip_network("10.0.0.0/32"), ip_network("fd00::/64")]
    assert blocks.reserved_in(ip_network("10.0.0.0/28"), reservations) == {0, 14, 15}
    assert len(blocks.reserved_in(ip_network("10.0.0.0/28"), [ip_network("10.0.0.0/8")])) == 16
    assert blocks.reserved_in(ip_network("10.0.1.0/28"), reservations) == frozenset()


def test_addresses_and_ordinals_are_inverse() -> None:
    block = fresh("fd00::40/122")
    assert blocks.address_of(block, 5) == ip_address("fd00::45")
    assert blocks.ordinal_of(block, ip_address("fd00::45")) == 5


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"allocations": (None,)}, "1 allocations in a block of 4"),
        ({"allocations": (7, None, None, None)}, "refers to no attributes"),
        ({"attributes": (Attributes(None),)}, "attributes that no allocation refers to"),
        ({"unallocated": (0, 1, 2, 2)}, "an ordinal is free twice"),
        ({"unallocated": (0, 1, 2, 9)}, "lies outside the block"),
        (
            {"allocations": (0, None, None, None), "attributes": (Attributes(None),)},
            "both free and allocated",
        ),
        ({"unallocated": (0, 1, 2)}, "neither free nor allocated"),
        ({"sequence_of": ((0, 1),)}, "not allocated"),
    ],
)
def test_every_broken_invariant_is_named(change: dict[str, object], sentence: str) -> None:
    broken = blocks.broken_invariants(replace(fresh("10.0.0.0/30"), **change))  # type: ignore[arg-type]
    assert any(sentence in text for text in broken)
