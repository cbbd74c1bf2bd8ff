"""Which pools may be used, and in which order their blocks are tried.

Promises: pure; every pool that is not used has its reason. Two nodes start far apart, one node always at the same place
(Calico: FNV-1 of the host name, then one after the other with wrap-around).
Does not know: which blocks exist.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from ipam.address_text import text_of
from ipam.model import Address, AddressRequest, AssignmentMode, NodeName, Pool, PoolRecord, Prefix, Use
from ipam.selector import SelectorError, parse

FNV_OFFSET, FNV_PRIME = 0x811C9DC5, 0x01000193
"""FNV-1, 32 bit."""


@dataclass(frozen=True, slots=True)
class EligiblePools:
    """The pools to use, by name, and why each other one is not used."""

    records: tuple[PoolRecord, ...]
    refused: tuple[str, ...]


def eligible_pools(records: Sequence[PoolRecord], request: AddressRequest, version: int) -> EligiblePools:
    """The pools of one family that a request may take addresses from."""
    chosen, refused = [], []
    others = {word for record in records if record.pool.cidr.version != version for word in _words(record)}
    named = frozenset(request.pools) - others
    for record in sorted(records, key=lambda record: record.pool.name):
        if record.pool.cidr.version != version:
            continue
        why = _why_not(record, request, named)
        if why is None:
            chosen.append(record)
        else:
            refused.append(f"{record.pool.name} ({record.pool.cidr}): {why}")
    known = {word for record in records for word in _words(record)}
    refused += [f"{word}: no such pool" for word in request.pools if word not in known]
    return EligiblePools(tuple(chosen), tuple(refused))


def _words(record: PoolRecord) -> frozenset[str]:
    """The words by which a request may name a pool: its name and its CIDR."""
    return frozenset({record.pool.name, text_of(record.pool.cidr)})


def _why_not(record: PoolRecord, request: AddressRequest, named: frozenset[str]) -> str | None:
    """Why a pool is not used; `named` holds the words of the request that may mean a pool of this IP version."""
    pool = record.pool
    if named and not _words(record) & named:
        return "was not asked for"
    if record.unreadable:
        return f"cannot be read: {record.unreadable}"
    if pool.disabled and not (named and request.use is Use.TUNNEL):  # its pods live on, and need the tunnel
        return "is disabled"
    if request.use not in pool.allowed_uses:
        return f"is not for {request.use.value} addresses"
    if named:  # who names a pool gets it, whatever its selector and mode say
        return None
    if pool.assignment_mode is AssignmentMode.MANUAL:
        return "is used only when asked for by name (assignmentMode Manual)"
    try:
        selected = parse(pool.node_selector).matches(dict(request.labels))
    except SelectorError as error:
        return f"its nodeSelector cannot be read: {error}"
    return None if selected else f"does not select node {request.node} (nodeSelector {pool.node_selector})"


def pools_not_selecting(records: Sequence[PoolRecord], request: AddressRequest) -> tuple[PoolRecord, ...]:
    """The enabled pools whose nodeSelector does not select the node of a request."""
    found, labels = [], dict(request.labels)
    for record in records:
        with suppress(SelectorError):  # nobody can say what it selects
            if not parse(record.pool.node_selector).matches(labels) and not record.pool.disabled:
                found.append(record)
    return tuple(found)


def fnv1(name: str) -> int:
    """The 32-bit FNV-1 hash of a name."""
    value = FNV_OFFSET
    for octet in name.encode():
        value = (value * FNV_PRIME) & 0xFFFFFFFF ^ octet
    return value


def blocks_in_order(record: PoolRecord, node: NodeName) -> Iterator[Prefix]:
    """Every block of a pool once, from the node's own starting place on."""
    cidr, length = record.pool.cidr, record.pool.block_length
    count = 1 << max(length - cidr.prefixlen, 0)
    step = 1 << (cidr.max_prefixlen - length)
    # Names that differ in their last letter hash to neighbours; the generator carries them apart, as in Calico.
    start = random.Random(fnv1(node)).randrange(count)
    network = type(cidr)
    for number in range(count):
        yield network((int(cidr.network_address) + (start + number) % count * step, length))


def aligned_block(pool: Pool, address: Address) -> Prefix:
    """The CIDR of the block that an address of a pool lies in."""
    length = max(pool.block_length, pool.cidr.prefixlen)
    mask = (1 << pool.cidr.max_prefixlen - length) - 1
    return type(pool.cidr)((int(address) & ~mask, length))
