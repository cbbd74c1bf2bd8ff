"""JSON to model and back, field by field as Calico writes them.

Promises: what Calico wrote is read, and fields that are missing or of an old form are filled in; Calico reads what is
written; fields that are unknown here survive a change.
Malformed names the key and the field. Does not know: etcd, what a value is used for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_network
from sys import intern
from typing import Any

from ipam.address_text import text_of
from ipam.failures import Malformed
from ipam.keys import affinity_of_key, block_of_key, handle_of_key
from ipam.model import (
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


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Raises Malformed, which names the key and what of it is read, for all that foreign JSON can hold wrong."""
    try:
        yield
    except KeyError as error:
        raise Malformed(f"{what}: {error.args[0]}: is missing") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise Malformed(f"{what}: {error}") from error


def _object(key: str, value: bytes) -> dict[str, Any]:
    with _reading(f"{key}: not JSON"):
        raw = json.loads(value) if value else {}
    if not isinstance(raw, dict):
        raise Malformed(f"{key}: expected a JSON object, got {type(raw).__name__}")
    return raw


def _network(key: str, field: str, text: object) -> Prefix:
    with _reading(f"{key}: {field}"):
        return ip_network(str(text))


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


def _other(raw: Mapping[str, Any], known: frozenset[str]) -> str:
    """The fields we do not know, as one canonical text: values stay hashable, and nothing of them is lost."""
    unknown = {name: value for name, value in raw.items() if name not in known}
    return json.dumps(unknown, sort_keys=True) if unknown else ""


def _with_other(raw: dict[str, Any], other: str) -> dict[str, Any]:
    return {**raw, **json.loads(other)} if other else raw


def decode_block(key: str, value: bytes) -> Block:
    """Decode a block. Raises Malformed."""
    raw = _object(key, value)
    cidr = _network(key, "cidr", raw.get("cidr"))
    if block_of_key(key) != cidr:
        raise Malformed(f"{key}: cidr: {cidr} is not the block of this key")
    owner = raw.get("affinity") or (f"host:{raw['hostAffinity']}" if raw.get("hostAffinity") else None)
    with _reading(key):
        kind, _, name = owner.partition(":") if owner else ("host", "", "")
        if owner and not name:  # written before owners had a kind
            kind, name = "host", kind
        return Block(
            cidr=cidr,
            owner=NodeName(name) if owner else None,
            owner_kind=kind,
            allocations=tuple(None if index is None else int(index) for index in raw["allocations"]),
            unallocated=tuple(int(ordinal) for ordinal in raw.get("unallocated") or ()),
            attributes=tuple(_attributes(item) for item in raw.get("attributes") or ()),
            sequence=int(raw.get("sequenceNumber") or 0),
            sequence_of=tuple(
                sorted((int(k), int(v)) for k, v in (raw.get("sequenceNumberForAllocation") or {}).items())
            ),
            claimed_at=raw.get("affinity_claim_time"),
            other=_other(raw, BLOCK_FIELDS),
        )


def _attributes(raw: Mapping[str, Any]) -> Attributes:
    handle = raw.get("handle_id")
    # the same few words in every allocation: interned, they are in memory once
    secondary = tuple(
        sorted((intern(str(k)), intern(str(v))) for k, v in (raw.get("secondary") or {}).items())
    )
    return Attributes(
        HandleId(str(handle)) if handle is not None else None,
        secondary,
        raw.get("releasedAt"),
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


def decode_affinity(key: str, value: bytes) -> Affinity:
    """Decode a node's claim on a block; an empty value or state is an old confirmed one. Raises Malformed."""
    found = affinity_of_key(key)
    if found is None:
        raise Malformed(f"{key}: is not the key of an affinity")
    word = _object(key, value).get("state") or AffinityState.CONFIRMED.value
    with _reading(f"{key}: state"):
        return Affinity(found[1], found[0], AffinityState(word))


def encode_affinity(state: AffinityState) -> bytes:
    """Encode a claim in this state; node and block are in its key."""
    return json.dumps({"state": state.value, "deleted": False}, separators=(",", ":")).encode()


def decode_handle(key: str, value: bytes) -> Handle:
    """Decode a handle. Raises Malformed."""
    name = handle_of_key(key)
    if name is None:
        raise Malformed(f"{key}: is not the key of a handle")
    counts = _object(key, value).get("block") or {}
    with _reading(f"{key}: block"):
        return Handle(
            name, tuple((_network(key, "block", cidr), int(count)) for cidr, count in counts.items())
        )


def encode_handle(handle: Handle) -> bytes:
    """Encode a handle as Calico does."""
    counts = {text_of(block): count for block, count in handle.count_by_block}
    return json.dumps({"block": counts, "deleted": False}, separators=(",", ":")).encode()


def decode_config(key: str, value: bytes) -> IpamConfig:
    """Decode the cluster's allocation rules; a missing field has its default. Raises Malformed."""
    raw = _object(key, value)
    with _reading(key):
        return IpamConfig(
            strict_affinity=bool(raw.get("strict_affinity", False)),
            auto_allocate_blocks=bool(raw.get("auto_allocate_blocks", True)),
            blocks_per_node=int(raw.get("maxBlocksPerHost") or 0),
            cooldown_seconds=int(raw.get("ipCooldownSeconds") or 0),
            other=_other(raw, CONFIG_FIELDS),
        )


def encode_config(config: IpamConfig) -> bytes:
    """Encode the cluster's allocation rules as Calico does."""
    raw: dict[str, Any] = {
        "strict_affinity": config.strict_affinity,
        "auto_allocate_blocks": config.auto_allocate_blocks,
    }
    if config.blocks_per_node:
        raw["maxBlocksPerHost"] = config.blocks_per_node
    if config.cooldown_seconds:
        raw["ipCooldownSeconds"] = config.cooldown_seconds
    return json.dumps(_with_other(raw, config.other), separators=(",", ":")).encode()


def decode_reservation(key: str, value: bytes) -> tuple[Prefix, ...]:
    """The prefixes that an IPReservation excludes from automatic assignment. Raises Malformed."""
    spec = _object(key, value).get("spec") or {}
    cidrs = spec.get("reservedCIDRs") if isinstance(spec, dict) else None
    if cidrs is not None and not isinstance(cidrs, list):
        raise Malformed(f"{key}: spec.reservedCIDRs: expected a list")
    return tuple(_network(key, "spec.reservedCIDRs", cidr) for cidr in cidrs or ())
