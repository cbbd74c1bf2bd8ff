"""JSON to model and back, field by field as Calico writes them.

Promises: what Calico wrote is read: a missing or null field is Go's zero value, old forms are known. Calico reads what
is written as it was meant; fields that are unknown here survive a change. Types are strict: a number in a text, a truth
value in a number or null in an object's place is Unreadable, which names the key and the field; a block that was read
has attributes for every allocation, and all its ordinals lie in it.
Does not know: etcd, what a value is used for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from ipaddress import ip_network
from sys import intern
from typing import Any

from ipam.address_text import masked_network, text_of
from ipam.etcd.store import Versioned
from ipam.keys import RESERVATIONS, affinity_of_key, block_of_key, handle_of_key
from ipam.model import (
    BLOCK_LENGTHS,
    Affinity,
    AffinityState,
    Attributes,
    Block,
    Handle,
    HandleId,
    IpamConfig,
    NodeName,
    Prefix,
)
from ipam.stored_json import read_stored, stored_object

LARGEST_SEQUENCE = (1 << 64) - 1
"""Calico's are uint64."""
LARGEST_NUMBER = (1 << 31) - 1
LONGEST_NAME = 253
"""Of a node, as Kubernetes has it."""
MOST_HANDLE_BLOCKS = 1024
"""Blocks that one handle names; each is read before the handle is released."""
MOST_RESERVED = 4096
"""Prefixes that one IPReservation names; each is compared with every block."""

BLOCK_FIELDS = frozenset(
    {
        *("cidr", "affinity", "affinity_claim_time", "allocations", "unallocated", "attributes", "deleted"),
        *("sequenceNumber", "sequenceNumberForAllocation", "hostAffinity"),
    }
)
ATTRIBUTE_FIELDS = frozenset({"handle_id", "secondary", "releasedAt"})
CONFIG_FIELDS = frozenset(
    {"strict_affinity", "auto_allocate_blocks", "maxBlocksPerHost", "ipCooldownSeconds"}
)


# -- single fields, strictly ------------------------------------------------------------------------------------------


def _field(raw: Mapping[str, Any], name: str, kind: type, absent: Any = None) -> Any:
    """A field that is of a type, or not given, or null. Raises ValueError."""
    value = raw.get(name)
    if value is None:
        return absent
    if type(value) is not kind:
        raise ValueError(f"{name}: expected {_TYPE_WORDS[kind]}, got {value!r}")
    return value


def _moment(raw: Mapping[str, Any], name: str) -> str | None:
    """A field that is a time of RFC 3339, with its zone, as Go writes it. Raises ValueError.

    One that nobody can read would end a cooldown, or give a block to another node.
    """
    text: str | None = _field(raw, name, str)
    if not text:
        return text
    try:
        has_zone = datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        has_zone = False
    if not has_zone:
        raise ValueError(f"{name}: {text!r} is no time, such as 2026-01-02T03:04:05Z")
    return text


_TYPE_WORDS = {str: "a text", int: "a whole number", bool: "true or false", list: "a list", dict: "an object"}


def _number(value: object, largest: int, name: str) -> int:
    if type(value) is not int or not 0 <= value <= largest:
        raise ValueError(f"{name}: {value!r} is no whole number of 0 to {largest}")
    return value


def _key_number(text: str, largest: int, name: str) -> int:
    """A number that is the name of a field."""
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(largest))):
        raise ValueError(f"{name}: {text!r} is no whole number")
    return _number(int(text), largest, name)


def _network(text: object, name: str) -> Prefix:
    if type(text) is not str:
        raise ValueError(f"{name}: expected a network, got {text!r}")
    try:
        return ip_network(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _check_length(block: Prefix) -> None:
    if block.prefixlen not in BLOCK_LENGTHS[block.version]:
        raise ValueError(f"{block} has not the length of a block")


def _node_name(text: str, name: str) -> NodeName:
    if not 0 < len(text) <= LONGEST_NAME or not text.isprintable():
        raise ValueError(f"{name}: {text!r} is no name of a node")
    return NodeName(text)


def _other(raw: Mapping[str, Any], known: frozenset[str]) -> str:
    """The fields we do not know, as one canonical text: values stay hashable, and nothing of them is lost."""
    unknown = {name: value for name, value in raw.items() if name not in known}
    return json.dumps(unknown, sort_keys=True) if unknown else ""


def _with_other(raw: dict[str, Any], other: str) -> dict[str, Any]:
    return {**raw, **json.loads(other)} if other else raw


# -- blocks -----------------------------------------------------------------------------------------------------------


def decode_block(stored: Versioned) -> Block:
    """Decode a block. Raises Unreadable."""
    return read_stored(stored, _block)


def _block(stored: Versioned) -> Block:
    raw = stored_object(stored)
    cidr = _network(raw.get("cidr"), "cidr")
    if block_of_key(stored.key) != cidr:
        raise ValueError(f"cidr: {cidr} is not the block of this key")
    _check_length(cidr)
    owner = _field(raw, "affinity", str) or _old_owner(raw)
    kind, _, name = owner.partition(":") if owner else ("host", "", "")
    if owner and not name:  # written before owners had a kind
        kind, name = "host", kind
    attributes = tuple(_attributes(item) for item in _field(raw, "attributes", list, ()))
    last = cidr.num_addresses - 1
    sequences = _field(raw, "sequenceNumberForAllocation", dict, {})
    return Block(
        cidr=cidr,
        owner=_node_name(name, "affinity") if owner else None,
        owner_kind=kind,
        allocations=_allocations(raw["allocations"], cidr.num_addresses, len(attributes)),
        unallocated=tuple(
            _number(ordinal, last, "unallocated") for ordinal in _field(raw, "unallocated", list, ())
        ),
        attributes=attributes,
        sequence=_number(_field(raw, "sequenceNumber", int, 0), LARGEST_SEQUENCE, "sequenceNumber"),
        sequence_of=tuple(
            sorted(
                (
                    _key_number(ordinal, last, "sequenceNumberForAllocation"),
                    _number(number, LARGEST_SEQUENCE, "sequenceNumberForAllocation"),
                )
                for ordinal, number in sequences.items()
            )
        ),
        claimed_at=_moment(raw, "affinity_claim_time"),
        other=_other(raw, BLOCK_FIELDS),
    )


def _old_owner(raw: Mapping[str, Any]) -> str | None:
    name = _field(raw, "hostAffinity", str)
    return f"host:{name}" if name else None


def _allocations(raw: object, size: int, attributes: int) -> tuple[int | None, ...]:
    """Ordinal -> index into attributes that are there."""
    if type(raw) is not list or len(raw) != size:
        found = f"{len(raw)} entries" if type(raw) is list else repr(raw)
        raise ValueError(f"allocations: expected a list of {size}, got {found}")
    for index in raw:
        if index is not None and (type(index) is not int or not 0 <= index < attributes):
            raise ValueError(f"allocations: {index!r} is no index into {attributes} attributes")
    return tuple(raw)


def _attributes(raw: object) -> Attributes:
    if type(raw) is not dict:
        raise ValueError(f"attributes: expected objects, got {raw!r}")
    handle = _field(raw, "handle_id", str)
    words = _field(raw, "secondary", dict, {})
    for word, value in words.items():
        if type(value) is not str:
            raise ValueError(f"attributes: secondary.{word}: expected a text, got {value!r}")
    # the same few words in every allocation: interned, they are in memory once
    secondary = tuple(sorted((intern(word), intern(value)) for word, value in words.items()))
    return Attributes(
        HandleId(handle) if handle is not None else None,
        secondary,
        _moment(raw, "releasedAt"),
        _other(raw, ATTRIBUTE_FIELDS),
    )


def encode_block(block: Block) -> bytes:
    """Encode a block as Calico does."""
    raw: dict[str, Any] = {
        "cidr": text_of(block.cidr),
        "affinity": f"{block.owner_kind}:{block.owner}" if block.owner is not None else None,
        "allocations": block.allocations,
        "unallocated": block.unallocated,
        "attributes": [_attributes_json(item) for item in block.attributes],
        "sequenceNumber": block.sequence,
        "sequenceNumberForAllocation": {str(ordinal): sequence for ordinal, sequence in block.sequence_of},
        "deleted": False,
    }
    if block.claimed_at is not None:
        raw["affinity_claim_time"] = block.claimed_at
    return json.dumps(_with_other(raw, block.other), separators=(",", ":")).encode()


def _attributes_json(attributes: Attributes) -> dict[str, Any]:
    raw: dict[str, Any] = {"handle_id": attributes.handle, "secondary": dict(attributes.secondary) or None}
    if attributes.released_at is not None:
        raw["releasedAt"] = attributes.released_at
    return _with_other(raw, attributes.other)


# -- claims, handles, rules, reservations -----------------------------------------------------------------------------


_STATES = tuple(state.value for state in AffinityState)


def decode_affinity(stored: Versioned) -> Affinity:
    """Decode a node's claim on a block; an empty value or state is an old confirmed one. Raises Unreadable."""
    return read_stored(stored, _affinity)


def _affinity(stored: Versioned) -> Affinity:
    found = affinity_of_key(stored.key)
    if found is None:
        raise ValueError("is not the key of a node's claim on a block")
    node, block = found
    _check_length(block)
    _node_name(node, "its key")
    word = _field(stored_object(stored), "state", str) if stored.value else None
    if word and word not in _STATES:
        raise ValueError(f"state: {word!r} is none of {', '.join(_STATES)}")
    return Affinity(block, node, AffinityState(word) if word else AffinityState.CONFIRMED)


def encode_affinity(state: AffinityState) -> bytes:
    """Encode a claim in this state; node and block are in its key."""
    return json.dumps({"state": state.value, "deleted": False}, separators=(",", ":")).encode()


def decode_handle(stored: Versioned) -> Handle:
    """Decode a handle. Raises Unreadable."""
    return read_stored(stored, _handle)


def _handle(stored: Versioned) -> Handle:
    name = handle_of_key(stored.key)
    if name is None:
        raise ValueError("is not the key of a handle")
    counts = _field(stored_object(stored), "block", dict, {})
    if len(counts) > MOST_HANDLE_BLOCKS:
        raise ValueError(f"block: {len(counts)} are more than {MOST_HANDLE_BLOCKS}")
    return Handle(
        name,
        tuple(
            (_handle_block(cidr), _number(count, LARGEST_NUMBER, "block")) for cidr, count in counts.items()
        ),
    )


def _handle_block(text: str) -> Prefix:
    block = _network(text, "block")
    _check_length(block)
    return block


def encode_handle(handle: Handle) -> bytes:
    """Encode a handle as Calico does."""
    counts = {text_of(block): count for block, count in handle.count_by_block}
    return json.dumps({"block": counts, "deleted": False}, separators=(",", ":")).encode()


def decode_config(stored: Versioned) -> IpamConfig:
    """Decode the cluster's allocation rules. Raises Unreadable.

    A missing key is IpamConfig's defaults; a missing field is Go's zero value, for Calico writes `false` by leaving the
    field out.
    """
    return read_stored(stored, _config)


def _config(stored: Versioned) -> IpamConfig:
    raw = stored_object(stored)
    return IpamConfig(
        strict_affinity=_field(raw, "strict_affinity", bool, False),
        auto_allocate_blocks=_field(raw, "auto_allocate_blocks", bool, False),
        blocks_per_node=_number(_field(raw, "maxBlocksPerHost", int, 0), LARGEST_NUMBER, "maxBlocksPerHost"),
        cooldown_seconds=_number(
            _field(raw, "ipCooldownSeconds", int, 0), LARGEST_NUMBER, "ipCooldownSeconds"
        ),
        other=_other(raw, CONFIG_FIELDS),
    )


def encode_config(config: IpamConfig) -> bytes:
    """Encode the cluster's allocation rules as Calico does: what is false or 0 is left out."""
    fields = {
        "strict_affinity": config.strict_affinity,
        "auto_allocate_blocks": config.auto_allocate_blocks,
        "maxBlocksPerHost": config.blocks_per_node,
        "ipCooldownSeconds": config.cooldown_seconds,
    }
    raw = {name: value for name, value in fields.items() if value}
    return json.dumps(_with_other(raw, config.other), separators=(",", ":")).encode()


def decode_reservation(stored: Versioned) -> tuple[Prefix, ...]:
    """The prefixes that an IPReservation excludes from automatic assignment, masked as in Calico. Raises Unreadable."""
    return read_stored(stored, _reservation)


def _reservation(stored: Versioned) -> tuple[Prefix, ...]:
    if "/" in stored.key.removeprefix(RESERVATIONS):
        raise ValueError("is not the key of an IPReservation")
    spec = stored_object(stored).get("spec", {})
    if type(spec) is not dict:
        raise ValueError(f"spec: expected an object, got {spec!r}")
    cidrs = _field(spec, "reservedCIDRs", list, ())
    if len(cidrs) > MOST_RESERVED:
        raise ValueError(f"spec.reservedCIDRs: {len(cidrs)} are more than {MOST_RESERVED}")
    found = (_reserved(text, f"spec.reservedCIDRs[{index}]") for index, text in enumerate(cidrs))
    return tuple(prefix for prefix in found if prefix is not None)


def _reserved(text: object, name: str) -> Prefix | None:
    if text is None:  # Go reads an empty text
        return None
    if type(text) is not str:
        raise ValueError(f"{name}: expected a network, got {text!r}")
    try:
        return masked_network(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
