"""Which pools may be used, and in which order their blocks are tried.

Promises: pure; every pool that is not used has its reason. Two nodes start far apart, one node always at the same place
(Calico: FNV-1 of the host name, then one after the other with wrap-around).
Does not know: which blocks exist.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from ipam.address_text import masked_network, text_of
from ipam.failures import NoPool
from ipam.model import (
    Address,
    AddressRequest,
    AssignmentMode,
    Block,
    Namespace,
    NodeName,
    Pool,
    PoolRecord,
    Prefix,
    Use,
)
from ipam.selector import SelectorError, parse

FNV_OFFSET, FNV_PRIME = 0x811C9DC5, 0x01000193
"""FNV-1, 32 bit."""
MOST_NAMES = 10
"""Of pools, in a sentence."""


@dataclass(frozen=True, slots=True)
class EligiblePools:
    """The pools to use, the first one first, and why each other one is not used."""

    records: tuple[PoolRecord, ...]
    refused: tuple[str, ...]


def eligible_pools(records: Sequence[PoolRecord], request: AddressRequest, version: int) -> EligiblePools:
    """The pools of one family that a request may take addresses from, in the request's order, or in that of names.

    Raises NoPool, as Calico refuses, when the request names a pool that is not there, gives nothing, or is of the other
    family: whoever names pools never gets addresses of others because of a slip.
    """
    named = named_pools(records, request, version)
    chosen: list[PoolRecord] = []
    refused: list[str] = []
    for record in named:
        if (why := record.refusal) is not None and request.use is not Use.TUNNEL:
            text = text_of(record.pool.cidr)
            raise NoPool(
                f"the given pool ({text}) does not exist, or is not enabled: {record.pool.name} {why}"
            )
    others = (record for record in records if record.pool.cidr.version == version and record not in named)
    for record in (*named, *sorted(others, key=lambda record: record.pool.name)):
        is_named = record in named
        why = _why_not(record, request, is_named=is_named) if is_named or not named else "was not asked for"
        if why is None:
            chosen.append(record)
        else:
            refused.append(f"{record.pool.name} ({record.pool.cidr}): {why}")
    return EligiblePools(tuple(chosen), tuple(refused))


def named_pools(
    records: Sequence[PoolRecord], request: AddressRequest, version: int
) -> tuple[PoolRecord, ...]:
    """The pools of one family that a request names, in its order, each once. Raises NoPool for what is none."""
    words = request.ipv4_pools if version == 4 else request.ipv6_pools
    return tuple(dict.fromkeys(_named(records, word, version) for word in words))


def _named(records: Sequence[PoolRecord], word: str, version: int) -> PoolRecord:
    """The pool behind a name or a network, in whatever spelling (Go's net.ParseCIDR: host bits count for nothing)."""
    with suppress(ValueError):
        cidr = masked_network(word) if "/" in word else None
        if cidr is not None:
            if cidr.version != version:
                raise NoPool(f"{text_of(cidr)} is named as a pool, and isn't a IPv{version} network")
            found = next((record for record in records if record.pool.cidr == cidr), None)
            if found is None:
                raise NoPool(f"the given pool ({text_of(cidr)}) does not exist, or is not enabled")
            return found
    found = next((record for record in records if record.pool.name == word), None)
    if found is None:
        names = ", ".join(sorted(record.pool.name for record in records)[:MOST_NAMES]) or "none"
        raise NoPool(f"error parsing pool {word!r}: it is neither a network nor the name of a pool ({names})")
    if found.pool.cidr.version != version:
        raise NoPool(f"pool {word} ({text_of(found.pool.cidr)}) isn't a IPv{version} pool")
    return found


def _why_not(record: PoolRecord, request: AddressRequest, *, is_named: bool) -> str | None:
    """Why a pool is not used."""
    pool, why = record.pool, record.refusal
    # A tunnel is for the pods that a pool has, whether it gets more or not.
    if why is not None and (record.unreadable or not is_named or request.use is not Use.TUNNEL):
        return why
    if request.use not in pool.allowed_uses:
        return f"is not for {request.use.value} addresses"
    if is_named:  # who names a pool gets it, whatever its selectors and mode say
        return None
    if pool.assignment_mode is AssignmentMode.MANUAL:
        return "is used only when asked for by name (assignmentMode Manual)"
    try:
        selected = parse(pool.node_selector).matches(dict(request.labels))
    except SelectorError as error:
        return f"its nodeSelector cannot be read: {error}"
    if not selected:
        return f"does not select node {request.node} (nodeSelector {pool.node_selector})"
    return _why_not_for(pool, request.namespace)


def _why_not_for(pool: Pool, namespace: Namespace) -> str | None:
    """Why a pool is not for the pods of a namespace."""
    selector = pool.namespace_selector
    if selects_every_namespace(pool):
        return None
    if namespace.unknown:
        return (
            f"is passed over: whether its namespaceSelector ({selector}) selects namespace {namespace.name} "
            f"is not known: {namespace.unknown}"
        )
    try:
        selected = parse(selector).matches(dict(namespace.labels))
    except SelectorError as error:
        return f"its namespaceSelector cannot be read: {error}"
    of = f"namespace {namespace.name}" if namespace.name else "what is no pod of Kubernetes"
    return None if selected else f"does not select {of} (namespaceSelector {selector})"


def selects_every_namespace(pool: Pool) -> bool:
    """Whether a pool gives addresses to pods of every namespace, whatever its labels are."""
    return "".join(pool.namespace_selector.split()) in ("", "all()", "global()")


def pools_not_selecting(records: Sequence[PoolRecord], request: AddressRequest) -> tuple[PoolRecord, ...]:
    """The enabled pools whose nodeSelector does not select the node of a request."""
    labels = dict(request.labels)
    return tuple(record for record in records if record.refusal is None and _deselects(record.pool, labels))


def _deselects(pool: Pool, labels: Mapping[str, str]) -> bool:
    try:
        return not parse(pool.node_selector).matches(labels)
    except SelectorError:  # nobody can say what it selects
        return False


def is_deselected(
    block: Block, records: Sequence[PoolRecord], node_labels: Callable[[NodeName], Mapping[str, str] | None]
) -> bool:
    """Whether the enabled pool that a block lies in does not select the block's owner; no, if its labels are unknown.

    Calico asks that whenever an address was released (ensureConsistentAffinity).
    """
    labels = node_labels(block.owner) if block.owner is not None and block.owner_kind == "host" else None
    if labels is None:
        return False
    enabled = (record for record in records if record.refusal is None)
    found = next((record for record in enabled if block.cidr.network_address in record.pool), None)
    return found is not None and _deselects(found.pool, labels)


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
