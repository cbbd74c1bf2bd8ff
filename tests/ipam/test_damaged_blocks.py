"""Whatever stands under the keys of address management is read, or refused with its key, and can be audited."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipam.allocation.transaction import read_block
from ipam.check.audit import audit, decode_snapshot, repairs
from ipam.check.utilization import block_utilization, borrowed_addresses
from ipam.codec import decode_affinity, decode_block, decode_config, decode_handle, decode_reservation
from ipam.etcd.store import Versioned
from ipam.failures import Unreadable
from ipam.keys import BLOCKS, HANDLES, HOSTS, RESERVATIONS
from ipam.stored_json import LONGEST_WHY, MOST_BYTES, MOST_DEPTH, is_too_deep, printable, read_stored
from tests.scenes.datastore.damages import AFFINITY, IPAM, Good, damages, odd_keys

READERS: Mapping[str, Callable[[Versioned], object]] = {
    "Block": decode_block,
    "Handle": decode_handle,
    "IPAMConfig": decode_config,
    "IPReservation": decode_reservation,
    "BlockAffinity": decode_affinity,
}
GOOD = (*IPAM, AFFINITY)


def refusal(good: Good, stored: Versioned) -> Unreadable | None:
    try:
        READERS[good.kind](stored)
    except Unreadable as error:
        return error
    return None


def check_everything(stored: dict[str, Versioned]) -> None:
    """What `tortie ipam check` and `ipam show` do with a copy of the datastore."""
    seen = decode_snapshot(stored)
    list(repairs(seen, audit(seen, (), {})))
    for block in seen.blocks.values():
        block_utilization(block)
    list(borrowed_addresses(seen.blocks.values()))


@pytest.mark.parametrize("good", GOOD, ids=lambda good: good.kind)
def test_whatever_is_wrong_with_a_value_is_one_error_with_key_and_revision(good: Good) -> None:
    others = {one.key: Versioned(one.key, one.value, 3) for one in GOOD}
    for damage in damages(good):
        stored = Versioned(good.key, damage.value, 7)
        error = refusal(good, stored)
        if error is not None:
            assert (error.key, error.revision) == (good.key, 7)
            assert error.why.isprintable()
            assert 0 < len(error.why) <= LONGEST_WHY
        else:
            # Of a reservation this package reads what it reserves, and no more.
            metadata = good.kind == "IPReservation" and damage.name.startswith(
                ("kind", "apiVersion", "metadata")
            )
            assert not damage.is_certain or metadata, damage.name
        check_everything(others | {good.key: stored})


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(GOOD), st.randoms(use_true_random=False))
def test_any_bytes_at_all_are_read_or_refused(good: Good, chance: random.Random) -> None:
    value = bytearray(good.value)
    for _ in range(chance.randrange(1, 6)):
        place = chance.randrange(len(value))
        value[place : place + chance.randrange(3)] = chance.randbytes(chance.randrange(4))
    stored = Versioned(good.key, bytes(value), 7)
    refusal(good, stored)
    check_everything({good.key: stored})


@pytest.mark.parametrize("prefix", [BLOCKS, HOSTS, HANDLES, RESERVATIONS])
def test_a_key_that_is_none_of_ours_is_named_and_keeps_no_other_from_being_read(prefix: str) -> None:
    good = next(one for one in GOOD if one.key.startswith(prefix))
    odd = {key: Versioned(key, good.value, 7) for key in odd_keys(prefix)}
    others = {one.key: Versioned(one.key, one.value, 3) for one in GOOD}
    seen = decode_snapshot({**odd, **others})
    assert len(seen.blocks) == 1
    assert all(finding.key.isprintable() for finding in seen.findings)
    check_everything({**odd, **others})


def test_a_block_with_an_index_without_attributes_is_refused_before_anybody_looks_behind_it() -> None:
    block = GOOD[0]
    stored = Versioned(block.key, block.value.replace(b'"attributes":[{', b'"attributes":[],"old":[{'), 7)
    with pytest.raises(Unreadable, match="allocations: 0 is no index into 0 attributes"):
        read_block(stored)


@pytest.mark.parametrize(
    ("value", "too_deep"),
    [
        (b"[" * MOST_DEPTH + b"]" * MOST_DEPTH, False),
        (b"[" * (MOST_DEPTH + 1) + b"]" * (MOST_DEPTH + 1), True),
        (b'{"a":' * (MOST_DEPTH + 1) + b"1" + b"}" * (MOST_DEPTH + 1), True),
        (b"[" + b"{}," * 5000 + b"{}]", False),
        (b'["' + b"[" * 5000 + b'"]', False),
        (b'["\\"' + b"[" * 5000 + b'"]', False),
        (b'["\\\\",' + b"[" * 5000, True),
        (b"[" * 5000, True),
        (b"]" * 5000, True),
        (b"", False),
    ],
)
def test_depth_is_known_before_a_parser_looks(value: bytes, *, too_deep: bool) -> None:
    assert is_too_deep(value) is too_deep


def test_what_is_too_large_or_fails_in_any_other_way_is_unreadable_too() -> None:
    def broken(_: Versioned) -> object:
        raise RecursionError("maximum recursion depth exceeded")

    with pytest.raises(Unreadable, match="bytes are more than"):
        read_stored(Versioned("/k", b" " * (MOST_BYTES + 1), 7), len)  # type: ignore[arg-type]
    with pytest.raises(Unreadable, match="RecursionError: maximum"):
        read_stored(Versioned("/k", b"", 7), broken)
    with pytest.raises(Unreadable, match="its key is not UTF-8") as found:
        read_stored(Versioned("/k\udcff\n", b"", 7), broken)
    assert found.value.key == "/k\\xff\\n"
    assert printable("\x1b[2J" + "x" * 1000, 20) == "\\x1b[2Jxxxxxxxxxxxx…"
