"""JSON as Calico writes it, both ways: golden pairs, old forms, and every damage with its key."""

from __future__ import annotations

import json
from ipaddress import ip_network
from typing import Any

import pytest

from ipam import codec
from ipam.etcd.store import Versioned
from ipam.failures import Unreadable
from ipam.keys import (
    IPAM_CONFIG,
    affinity_key,
    affinity_of_key,
    block_key,
    block_of_key,
    handle_key,
    handle_of_key,
    resource_key,
    resource_name,
)
from ipam.model import AffinityState, Attributes, Block, Handle, HandleId, IpamConfig, NodeName

CIDR = ip_network("10.0.0.0/30")
KEY = block_key(CIDR)
RESERVED = resource_key("ipreservations", "r")
BLOCK = Block(
    cidr=CIDR,
    owner=NodeName("node1"),
    allocations=(0, None, 1, None),
    unallocated=(1, 3),
    attributes=(
        Attributes(
            HandleId("k8s-pod-network.0123"), (("namespace", "default"), ("node", "node1"), ("pod", "p1"))
        ),
        Attributes(None, released_at="2026-01-02T03:04:05Z"),
    ),
    sequence=1767323045000000001,
    sequence_of=((0, 1767323045000000000),),
    claimed_at="2026-01-02T03:04:05Z",
)
JSON: dict[str, Any] = {
    "cidr": "10.0.0.0/30",
    "affinity": "host:node1",
    "allocations": [0, None, 1, None],
    "unallocated": [1, 3],
    "attributes": [
        {
            "handle_id": "k8s-pod-network.0123",
            "secondary": {"namespace": "default", "node": "node1", "pod": "p1"},
        },
        {"handle_id": None, "secondary": None, "releasedAt": "2026-01-02T03:04:05Z"},
    ],
    "sequenceNumber": 1767323045000000001,
    "sequenceNumberForAllocation": {"0": 1767323045000000000},
    "deleted": False,
    "affinity_claim_time": "2026-01-02T03:04:05Z",
}


def packed(raw: object) -> bytes:
    return json.dumps(raw).encode()


def test_a_block_is_written_field_by_field_as_calico_does() -> None:
    assert json.loads(codec.encode_block(BLOCK)) == JSON
    assert codec.decode_block(Versioned(KEY, packed(JSON), 7)) == BLOCK


def test_fields_of_a_newer_calico_survive_a_rewrite() -> None:
    newer = {**JSON, "future": {"a": [1]}}
    newer["attributes"] = [
        {**JSON["attributes"][0], "alternateOwnerAttrs": {"pod": "p2"}},
        JSON["attributes"][1],
    ]
    assert json.loads(codec.encode_block(codec.decode_block(Versioned(KEY, packed(newer), 7)))) == newer


@pytest.mark.parametrize(
    ("change", "owner"),
    [
        ({"affinity": None}, None),
        ({"affinity": None, "hostAffinity": "old"}, "old"),
        ({"affinity": "bare"}, "bare"),
        ({"affinity": "virtual:load-balancer"}, "load-balancer"),
    ],
)
def test_owners_are_read_in_every_form(change: dict[str, object], owner: str | None) -> None:
    assert codec.decode_block(Versioned(KEY, packed({**JSON, **change}), 7)).owner == owner


def test_missing_and_null_fields_of_old_blocks_are_healed() -> None:
    old = {
        "cidr": "10.0.0.0/30",
        "affinity": "host:n",
        "allocations": [None] * 4,
        "unallocated": [0, 1, 2, 3],
    }
    block = codec.decode_block(Versioned(KEY, packed({**old, "attributes": None}), 7))
    assert (block.attributes, block.sequence, block.sequence_of) == ((), 0, ())
    full = codec.decode_block(
        Versioned(KEY, packed({**JSON, "allocations": [0, 0, 0, 0], "unallocated": None}), 7)
    )
    assert full.unallocated == ()


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (b'{"cidr":', "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "expected a JSON object"),
        (packed({**JSON, "cidr": "10.0.0.4/30"}), "not the block of this key"),
        (packed({**JSON, "cidr": "10.0.0.1/30"}), "host bits"),
        (packed({**JSON, "allocations": ["a"]}), "allocations: expected a list of 4, got 1 entries"),
        (packed({**JSON, "allocations": 7}), "allocations: expected a list of 4, got 7"),
        (packed({**JSON, "affinity": 7}), "affinity: expected a text, got 7"),
        (packed({**JSON, "attributes": [7]}), "attributes: expected objects, got 7"),
        (
            packed({key: value for key, value in JSON.items() if key != "allocations"}),
            "allocations: is missing",
        ),
    ],
)
def test_a_damaged_block_is_refused_with_its_key(value: bytes, word: str) -> None:
    with pytest.raises(Unreadable) as refused:
        codec.decode_block(Versioned(KEY, value, 7))
    assert KEY in str(refused.value)
    assert word in str(refused.value)


@pytest.mark.parametrize("value", [b"", b"{}", b'{"state":""}', b'{"state":"confirmed","deleted":false}'])
def test_an_old_claim_without_a_state_is_confirmed(value: bytes) -> None:
    assert (
        codec.decode_affinity(Versioned(affinity_key(NodeName("n"), CIDR), value, 7)).state
        is AffinityState.CONFIRMED
    )


def test_a_claim_in_an_unknown_state_is_refused() -> None:
    with pytest.raises(Unreadable, match="state"):
        codec.decode_affinity(Versioned(affinity_key(NodeName("n"), CIDR), b'{"state":"odd"}', 7))


def test_handles_and_rules_are_written_as_calico_does() -> None:
    handle = Handle(HandleId("h"), ((CIDR, 2),))
    assert codec.encode_handle(handle) == b'{"block":{"10.0.0.0/30":2},"deleted":false}'
    assert codec.decode_handle(Versioned(handle_key(handle.id), codec.encode_handle(handle), 7)) == handle
    rules = IpamConfig(True, False, 7, 30, '{"kubeVirtVMAddressPersistence": "Enabled"}')
    raw = codec.encode_config(rules)
    assert json.loads(raw) == {
        "strict_affinity": True,
        "maxBlocksPerHost": 7,
        "ipCooldownSeconds": 30,
        "kubeVirtVMAddressPersistence": "Enabled",
    }
    assert codec.decode_config(Versioned(IPAM_CONFIG, raw, 7)) == rules
    assert codec.decode_config(Versioned(IPAM_CONFIG, b"{}", 7)) == IpamConfig(auto_allocate_blocks=False)


@pytest.mark.parametrize("value", [b'{"block":{"x":1}}', b'{"block":[1]}', b'{"block":{"10.0.0.0/30":"x"}}'])
def test_a_damaged_handle_is_refused(value: bytes) -> None:
    with pytest.raises(Unreadable, match="handle/h"):
        codec.decode_handle(Versioned(handle_key(HandleId("h")), value, 7))


def test_reservations_are_read() -> None:
    value = b'{"spec":{"reservedCIDRs":["10.0.0.1","10.0.1.0/24"]}}'
    assert codec.decode_reservation(Versioned(RESERVED, value, 7)) == (
        ip_network("10.0.0.1/32"),
        ip_network("10.0.1.0/24"),
    )
    assert codec.decode_reservation(Versioned(RESERVED, b"{}", 7)) == ()
    with pytest.raises(Unreadable, match="reservedCIDRs"):
        codec.decode_reservation(Versioned(RESERVED, b'{"spec":{"reservedCIDRs":"10.0.0.1"}}', 7))


@pytest.mark.parametrize("name", ["n1", "a/b", "100%", "a%2fb", "x.y"])
@pytest.mark.parametrize("cidr", ["10.0.0.0/26", "fd00:1::40/122"])
def test_keys_are_read_back_as_what_they_were_made_of(name: str, cidr: str) -> None:
    block = ip_network(cidr)
    assert block_of_key(block_key(block)) == block
    assert affinity_of_key(affinity_key(NodeName(name), block)) == (name, block)
    assert handle_of_key(handle_key(HandleId(name))) == name
    assert handle_key(HandleId(name)).endswith(f"/{name}"), "Calico escapes no handle"
    assert resource_name(resource_key("nodes", name), "nodes") == (None, name)
    assert resource_name(resource_key("workloadendpoints", name, "ns"), "workloadendpoints") == ("ns", name)


@pytest.mark.parametrize(
    "key", ["", "/calico/ipam/v2/config", f"{KEY}/x", KEY.replace("-30", "-99"), "/calico/ipam/v2/host/n"]
)
def test_foreign_keys_read_as_nothing(key: str) -> None:
    assert block_of_key(key) is None
    assert affinity_of_key(key) is None


def test_calicos_own_keys_are_ours() -> None:
    assert KEY == "/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-30"
    assert block_key(ip_network("fd00::/122")) == "/calico/ipam/v2/assignment/ipv6/block/fd00::-122"
    assert affinity_key(NodeName("n1"), CIDR) == "/calico/ipam/v2/host/n1/ipv4/block/10.0.0.0-30"
    assert handle_key(HandleId("k8s-pod-network.01")) == "/calico/ipam/v2/handle/k8s-pod-network.01"
