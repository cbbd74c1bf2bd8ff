"""What Calico stores about addresses, each field missing, null, zero, empty and set: what is read, and written back.

A missing key is the default; a missing or null field is the zero value of Go, which leaves these out (`omitempty`).
The documents are made from tables, by what a field may be; nothing in them is copied.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from ipam import codec
from ipam.allocation.ipam_config import configure, read_config
from ipam.etcd.store import Versioned
from ipam.failures import PoolExhausted, Refused, Unreadable
from ipam.keys import IPAM_CONFIG, RESERVATIONS, affinity_key, block_key, handle_key
from ipam.model import AffinityState, Handle, HandleId, IpamConfig, NodeName
from tests.fakes.store import FakeStore
from tests.scenes.ipam.world import World, ask

MISSING = object()


def documents(fields: Mapping[str, tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    """Every combination of the fields' values."""
    for values in itertools.product(*fields.values()):
        yield {name: value for name, value in zip(fields, values, strict=True) if value is not MISSING}


def read_by_go(raw: Mapping[str, Any], zeros: Mapping[str, Any]) -> dict[str, Any]:
    """What Go's decoder makes of fields: its zero value of what is missing or null."""
    return {name: zero if raw.get(name) is None else raw[name] for name, zero in zeros.items()}


# -- the rules of allocation ------------------------------------------------------------------------------------------

CONFIG_ZEROS = {
    "strict_affinity": False,
    "auto_allocate_blocks": False,
    "maxBlocksPerHost": 0,
    "ipCooldownSeconds": 0,
    "kubeVirtVMAddressPersistence": None,
}
CONFIGS = tuple(
    documents(
        {
            "strict_affinity": (MISSING, None, False, True),
            "auto_allocate_blocks": (MISSING, None, False, True),
            "maxBlocksPerHost": (MISSING, None, 0, 7),
            "ipCooldownSeconds": (MISSING, None, 0, 30),
            "kubeVirtVMAddressPersistence": (MISSING, "Disabled"),
        }
    )
)


def test_a_field_of_the_rules_that_is_missing_or_null_is_gos_zero_value() -> None:
    assert len(CONFIGS) == 512
    for raw in CONFIGS:
        found = codec.decode_config(Versioned(IPAM_CONFIG, json.dumps(raw).encode(), 7))
        meant = read_by_go(raw, CONFIG_ZEROS)
        assert (
            found.strict_affinity,
            found.auto_allocate_blocks,
            found.blocks_per_node,
            found.cooldown_seconds,
        ) == tuple(meant[name] for name in list(CONFIG_ZEROS)[:4]), raw


def test_what_is_written_of_the_rules_means_to_calico_what_was_read_and_absent_fields_stay_absent() -> None:
    for raw in CONFIGS:
        written = json.loads(
            codec.encode_config(codec.decode_config(Versioned(IPAM_CONFIG, json.dumps(raw).encode(), 7)))
        )
        assert read_by_go(written, CONFIG_ZEROS) == read_by_go(raw, CONFIG_ZEROS), raw
        assert written.keys() <= raw.keys(), raw


def test_only_a_missing_key_has_the_defaults() -> None:
    assert read_config(None) == IpamConfig(strict_affinity=False, auto_allocate_blocks=True)
    assert not codec.decode_config(Versioned(IPAM_CONFIG, b"{}", 7)).auto_allocate_blocks


async def test_one_rule_is_changed_and_the_others_stay_what_calico_meant(store: FakeStore) -> None:
    world = World(store)
    await world.rules('{"strict_affinity":true}')
    await configure(store, lambda now: IpamConfig(**{**_fields(now), "blocks_per_node": 5}))
    assert json.loads(store.copy()[IPAM_CONFIG]) == {"strict_affinity": True, "maxBlocksPerHost": 5}


def _fields(rules: IpamConfig) -> dict[str, Any]:
    return {name: getattr(rules, name) for name in IpamConfig.__dataclass_fields__}


async def test_no_block_is_claimed_where_calico_left_the_field_out(world: World) -> None:
    await world.pool("p", "10.0.0.0/29")
    await world.rules('{"strict_affinity":true}')
    with pytest.raises(PoolExhausted, match="autoAllocateBlocks is off"):
        await world.allocator().assign(ask("h1"))


async def test_rules_that_calico_refuses_let_nobody_borrow(world: World) -> None:
    await world.pool("p", "10.0.0.0/30")
    await world.allocator().assign(ask("h1", node="n1"))
    await world.rules("{}")
    with pytest.raises(PoolExhausted, match="nothing is borrowed"):
        await world.allocator().assign(ask("h2", node="n2"))


# -- reservations -----------------------------------------------------------------------------------------------------

RESERVED = f"{RESERVATIONS}r"
TEXTS: tuple[tuple[str, str | None], ...] = (
    ("10.0.0.1", "10.0.0.1/32"),
    ("10.0.0.1/32", "10.0.0.1/32"),
    ("10.0.0.9/29", "10.0.0.8/29"),
    ("192.168.0.9/17", "192.168.0.0/17"),
    (" 10.0.0.0/30\t", "10.0.0.0/30"),
    ("\n10.0.0.3 ", "10.0.0.3/32"),
    ("0.0.0.0/0", "0.0.0.0/0"),
    ("fd00::9/120", "fd00::/120"),
    ("FD00:0::1", "fd00::1/128"),
    ("::ffff:10.0.0.9/125", "10.0.0.8/29"),
    ("::ffff:10.0.0.9", "10.0.0.9/32"),
    ("", None),
    ("  ", None),
)
"""A text, and what it reserves; None: nothing, as in Calico."""
UNREADABLE_TEXTS = (
    *(
        "zz",
        "10.0.0",
        "10.0.0.0/33",
        "10.0.0.0/-1",
        "10.0.0.0/255.0.0.0",
        "10.0.0.0/x",
        "10.0.0.0/",
        "10.0.0.01",
    ),
    *("fe80::1%eth0", "10.0.0.0 /24", "10.0.0.0/24,10.0.1.0/24", "10.0.0.1-10.0.0.9"),
)


@pytest.mark.parametrize(("text", "reserved"), TEXTS)
def test_what_is_reserved_is_masked_as_in_calico_and_blanks_are_taken_off(
    text: str, reserved: str | None
) -> None:
    raw = {"spec": {"reservedCIDRs": [text, "10.9.9.9"]}}
    expected = [ip_network(reserved)] if reserved is not None else []
    found = codec.decode_reservation(Versioned(RESERVED, json.dumps(raw).encode(), 7))
    assert found == (*expected, ip_network("10.9.9.9/32"))


@pytest.mark.parametrize("text", UNREADABLE_TEXTS)
def test_what_no_one_can_read_is_unreadable_and_is_no_empty_reservation(text: str) -> None:
    raw = {"spec": {"reservedCIDRs": ["10.9.9.9", text]}}
    with pytest.raises(Unreadable, match=r"spec\.reservedCIDRs\[1\]"):
        codec.decode_reservation(Versioned(RESERVED, json.dumps(raw).encode(), 7))


@pytest.mark.parametrize("spec", [MISSING, {}, {"reservedCIDRs": None}, {"reservedCIDRs": []}])
def test_a_reservation_without_addresses_reserves_none(spec: object) -> None:
    raw = {} if spec is MISSING else {"spec": spec}
    assert codec.decode_reservation(Versioned(RESERVED, json.dumps(raw).encode(), 7)) == ()


@pytest.mark.parametrize("text", ["10.0.0.5/29", " 10.0.0.0/29 ", "::ffff:10.0.0.5/125"])
async def test_no_address_is_given_that_calico_would_not_give(world: World, text: str) -> None:
    await world.pool("p", "10.0.0.0/28")
    await world.write(RESERVED, json.dumps({"spec": {"reservedCIDRs": [text]}}).encode())
    given = [await world.allocator().assign(ask(f"h{number}")) for number in range(8)]
    assert {one.address for (one,) in given} == {ip_address(f"10.0.0.{last}") for last in range(8, 16)}


async def test_nothing_new_is_given_while_a_reservation_cannot_be_read_though_it_was_read_before(
    world: World,
) -> None:
    await world.pool("p", "10.0.0.0/28")
    await world.write(RESERVED, b'{"spec":{"reservedCIDRs":["10.0.0.0/29"]}}')
    warm = world.allocator()
    (held,) = await warm.assign(ask("h1"))
    await world.write(RESERVED, b'{"spec":{"reservedCIDRs":["10.0.0.0/29","zz"]}}')
    world.clock.advance(3600)
    with pytest.raises(Refused, match="reservedCIDRs"):
        await warm.assign(ask("h2"))
    assert await warm.assign(ask("h1")) == (held,)
    assert await warm.release_handle(HandleId("h1")) == (held.address,)
    await world.write(RESERVED, b'{"spec":{"reservedCIDRs":["10.0.0.0/29"]}}')
    world.clock.advance(3600)
    assert await warm.assign(ask("h2"))


# -- blocks, claims, handles ------------------------------------------------------------------------------------------

CIDR = ip_network("10.0.0.0/30")
TIME = "2026-01-02T03:04:05Z"
HOLDER = {"handle_id": "h", "secondary": {"node": "n"}}
BLOCKS = tuple(
    documents(
        {
            "cidr": ("10.0.0.0/30",),
            "affinity": (MISSING, None, "", "host:n", "virtual:load-balancer"),
            "affinity_claim_time": (MISSING, None, TIME),
            "allocations": ([0, None, None, None],),
            "unallocated": ([1, 2, 3],),
            "attributes": tuple(
                [one]
                for one in documents(
                    {
                        "handle_id": (MISSING, None, "", "h"),
                        "secondary": (MISSING, None, {}, {"node": "n"}),
                        "releasedAt": (MISSING, None, TIME),
                        "alternateOwnerAttrs": (MISSING, None, {}, {"pod": "p"}),
                    }
                )
            ),
            "sequenceNumber": (MISSING, 0, (1 << 64) - 1),
            "sequenceNumberForAllocation": (MISSING, None, {}, {"0": 3}, {"0": 3, "2": 1}),
            "deleted": (MISSING, False),
        }
    )
)
BLOCK_ZEROS = {
    "cidr": "",
    "affinity": None,
    "affinity_claim_time": None,
    "allocations": [],
    "unallocated": [],
    "sequenceNumber": 0,
    "sequenceNumberForAllocation": {},
    "deleted": False,
}
ATTRIBUTE_ZEROS = {"handle_id": None, "secondary": {}, "releasedAt": None, "alternateOwnerAttrs": None}
OMITTED = frozenset({"affinity_claim_time", "hostAffinity", "releasedAt", "alternateOwnerAttrs"})
"""Fields that Go leaves out when they are empty; it writes all others."""


def block_as_go_reads_it(raw: Mapping[str, Any]) -> dict[str, Any]:
    found = read_by_go(raw, BLOCK_ZEROS)
    found["affinity"] = found["affinity"] or None  # no owner, either way
    found["attributes"] = [read_by_go(one, ATTRIBUTE_ZEROS) for one in raw.get("attributes") or ()]
    return found


def test_a_block_is_written_with_the_meaning_and_the_absent_fields_it_was_read_with() -> None:
    some = BLOCKS[::7]  # 7 and the number of no field's values have a common divisor
    assert len(some) > 10_000
    for raw in some:
        block = codec.decode_block(Versioned(block_key(CIDR), json.dumps(raw).encode(), 7))
        written = json.loads(codec.encode_block(block))
        assert block_as_go_reads_it(written) == block_as_go_reads_it(raw), raw
        assert not (written.keys() - raw.keys()) & OMITTED, raw
        assert not (written["attributes"][0].keys() - raw["attributes"][0].keys()) & OMITTED, raw


@pytest.mark.parametrize(
    ("field", "value", "meant"),
    [
        ("unallocated", None, []),
        ("unallocated", [], []),
        ("attributes", None, []),
        ("attributes", [], []),
        ("hostAffinity", None, None),
        ("hostAffinity", "n", "n"),
    ],
)
def test_lists_that_go_writes_as_null_are_empty(field: str, value: object, meant: object) -> None:
    raw: dict[str, Any] = {
        "cidr": "10.0.0.0/30",
        "affinity": None,
        "allocations": [None] * 4,
        "unallocated": [0, 1, 2, 3],
        "attributes": [],
        field: value,
    }
    block = codec.decode_block(Versioned(block_key(CIDR), json.dumps(raw).encode(), 7))
    found = block.owner if field == "hostAffinity" else list(getattr(block, field))
    assert found == meant


@pytest.mark.parametrize(
    ("value", "state"),
    [
        (b"", AffinityState.CONFIRMED),
        (b"{}", AffinityState.CONFIRMED),
        (b'{"state":null}', AffinityState.CONFIRMED),
        (b'{"state":"","deleted":false}', AffinityState.CONFIRMED),
        (b'{"state":"pending","deleted":false}', AffinityState.PENDING),
        (b'{"state":"pendingDeletion","deleted":null}', AffinityState.PENDING_DELETION),
        (b'{"state":"confirmed"}', AffinityState.CONFIRMED),
    ],
)
def test_a_claim_is_read_as_calico_reads_it(value: bytes, state: AffinityState) -> None:
    assert codec.decode_affinity(Versioned(affinity_key(NodeName("n"), CIDR), value, 7)).state is state


@pytest.mark.parametrize(
    ("value", "counts"),
    [
        (b"{}", ()),
        (b'{"block":null}', ()),
        (b'{"block":{},"deleted":false}', ()),
        (b'{"block":{"10.0.0.0/30":0}}', ((CIDR, 0),)),
        (b'{"block":{"10.0.0.0/30":2},"deleted":null}', ((CIDR, 2),)),
    ],
)
def test_a_handle_is_read_as_calico_reads_it(value: bytes, counts: tuple[Any, ...]) -> None:
    key = handle_key(HandleId("h"))
    handle = codec.decode_handle(Versioned(key, value, 7))
    assert handle == Handle(HandleId("h"), counts)
    assert codec.decode_handle(Versioned(key, codec.encode_handle(handle), 7)) == handle
