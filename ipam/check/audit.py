"""What is inconsistent in a copy of the datastore: every finding with its key and a sentence, and how to repair it.

Promises: pure; what was written by transactions of this package alone has no findings. A finding is `repairable` only
if the copy itself proves the repair; a lost address (allocated, but nobody uses it) is reported, never repaired here,
because an endpoint may be about to be written. A repair changes nothing if anything it relies on has changed since the
snapshot, so running agents do not have to stop; its undo record holds every key as it was.
Does not know: the store, time, files.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ipam import block as blocks
from ipam.allocation.sticky import is_retained
from ipam.allocation.transaction import Transaction, VersionedBlock, serious_faults
from ipam.codec import decode_affinity, decode_block, decode_config, decode_handle
from ipam.etcd.store import Versioned, revision_of
from ipam.failures import Unreadable
from ipam.keys import (
    BLOCKS,
    HANDLES,
    HOSTS,
    IPAM_CONFIG,
    affinity_key,
    affinity_of_key,
    block_key,
    block_of_key,
    handle_key,
    is_fence,
    tunnel_handles,
)
from ipam.model import (
    Address,
    Affinity,
    AffinityState,
    Attributes,
    Block,
    Handle,
    HandleId,
    NodeName,
    Pool,
    Prefix,
)

MOST_NAMED = 3
"""Keys in one sentence."""
WINDOWS_HANDLE = "windows-reserved-ipam-handle"
"""Calico's, of the addresses in each block that a Windows node keeps for itself."""


@dataclass(frozen=True, slots=True)
class AuditFinding:
    """One inconsistency: its kind, the key where it shows, and a sentence."""

    kind: str
    key: str
    text: str
    address: Address | None = None
    handle: HandleId | None = None
    repairable: bool = False
    is_harmless: bool = False
    """No address depends on it: no problem, and repaired with the others."""

    def as_json(self) -> dict[str, Any]:
        """The entry of a report for programs."""
        raw = asdict(self) | {"address": None if self.address is None else str(self.address)}
        raw["harmless"] = raw.pop("is_harmless")
        return {name: value for name, value in raw.items() if value is not None}


@dataclass(slots=True)
class IpamSnapshot:
    """Everything stored about addresses at one revision, decoded; `findings` holds what could not be."""

    stored: Mapping[str, Versioned]
    blocks: dict[Prefix, Block] = field(default_factory=dict)
    handles: dict[HandleId, Handle] = field(default_factory=dict)
    claims: list[Affinity] = field(default_factory=list)
    findings: list[AuditFinding] = field(default_factory=list)

    def revision(self, key: str) -> int:
        """The revision of a key in the snapshot; 0 if it is not there."""
        return revision_of(self.stored.get(key))


def decode_snapshot(stored: Mapping[str, Versioned]) -> IpamSnapshot:
    """Decode everything below Calico's IPAM prefix; keys of other kinds are left out."""
    found = IpamSnapshot(stored)
    for key, value in stored.items():
        try:
            if key.startswith(BLOCKS):
                block = decode_block(value)
                found.blocks[block.cidr] = block
            elif key.startswith(HOSTS) and not is_fence(key):
                found.claims.append(decode_affinity(value))
            elif key.startswith(HANDLES):
                handle = decode_handle(value)
                found.handles[handle.id] = handle
            elif key == IPAM_CONFIG:
                decode_config(value)
        except Unreadable as error:
            found.findings.append(AuditFinding("damaged", error.key, str(error)))
    return found


def real_counts(snapshot: IpamSnapshot) -> dict[HandleId, dict[Prefix, int]]:
    """How many addresses each handle holds in each block, as the readable blocks say."""
    counts: dict[HandleId, dict[Prefix, int]] = {}
    for cidr, block in snapshot.blocks.items():
        if serious_faults(block):
            continue
        for _, attributes in blocks.allocated(block):
            handle = blocks.bare_handle(attributes.handle)
            if handle:
                mine = counts.setdefault(handle, {})
                mine[cidr] = mine.get(cidr, 0) + 1
    return counts


def audit(
    snapshot: IpamSnapshot,
    pools: Sequence[Pool] | None = None,
    in_use: Mapping[Address, str] | None = None,
    living: Mapping[Address, tuple[HandleId, str]] | None = None,
    *,
    unknown_users: Collection[str] = (),
    in_kernel: Collection[Address] = (),
    tunnels: Mapping[Address, Collection[str]] | None = None,
    of_endpoints: Mapping[Address, str] | None = None,
) -> tuple[AuditFinding, ...]:
    """All inconsistencies.

    `in_use`: all addresses that endpoints and nodes of the same snapshot name, in pools or not, and who uses each.
    `living`: those of the pods that live on the machine where this is asked, each with its handle and name.
    `unknown_users`: those that may use others, for they cannot be read. `in_kernel`: addresses that a kernel was seen
    to use at about that time, so no proof that one is not allocated. `tunnels`: addresses that nodes' tunnels bear, and
    which nodes say so. `of_endpoints`: addresses that endpoints name, and which.
    """
    found = [*snapshot.findings, *_structure(snapshot), *_claims(snapshot), *_handles(snapshot)]
    if pools is not None:
        found += [
            AuditFinding("block-outside-pools", block_key(cidr), f"block {cidr} lies in no pool")
            for cidr in snapshot.blocks
            if not any(cidr.network_address in pool for pool in pools)
        ]
    if in_use is not None:
        found += _usage(snapshot, {*in_use, *in_kernel, *(living or ())}, unknown_users)
        found += _unallocated(snapshot, pools or (), in_use)
    found += _living(snapshot, living or {})
    found += _tunnels(snapshot, tunnels or {}, of_endpoints or {})
    return tuple(sorted(found, key=lambda finding: (finding.kind, finding.key, finding.text)))


def _structure(snapshot: IpamSnapshot) -> Iterator[AuditFinding]:
    for cidr, block in snapshot.blocks.items():
        for sentence in serious_faults(block):
            yield AuditFinding("broken-block", block_key(cidr), f"block {cidr}: {sentence}")
        if not serious_faults(block) and (left := blocks.broken_invariants(block)):
            text = f"block {cidr} holds {'; '.join(left)}: harmless, Calico leaves them behind"
            yield AuditFinding("stale-entries", block_key(cidr), text, repairable=True, is_harmless=True)
    ordered = sorted(snapshot.blocks, key=lambda cidr: (cidr.version, cidr))
    for first, second in itertools.pairwise(ordered):
        if first.version == second.version and first.overlaps(second):
            yield AuditFinding(
                "overlapping-blocks", block_key(second), f"blocks {first} and {second} share addresses"
            )


def _claims(snapshot: IpamSnapshot) -> Iterator[AuditFinding]:
    claimed = set()
    for claim in snapshot.claims:
        claimed.add((claim.node, claim.block))
        key = affinity_key(claim.node, claim.block)
        block = snapshot.blocks.get(claim.block)
        if block_key(claim.block) in snapshot.stored and block is None:
            continue  # damaged, and said so already
        if claim.state is AffinityState.PENDING:
            continue  # somebody is at it
        if block is None:
            text = f"node {claim.node} claims {claim.block}, and there is no such block"
            yield AuditFinding("claim-without-block", key, text, repairable=True)
        elif block.owner != claim.node and claim.state is AffinityState.CONFIRMED:
            text = f"node {claim.node} claims {claim.block}, which belongs to {block.owner or 'nobody'}"
            yield AuditFinding("claim-of-others-block", key, text, repairable=True)
    for cidr, block in snapshot.blocks.items():
        if block.owner is not None and block.owner_kind == "host" and (block.owner, cidr) not in claimed:
            text = f"block {cidr} belongs to node {block.owner}, which does not claim it"
            yield AuditFinding("block-without-claim", block_key(cidr), text, repairable=True)


def _handles(snapshot: IpamSnapshot) -> Iterator[AuditFinding]:
    real = real_counts(snapshot)
    unreadable = {cidr for cidr, block in snapshot.blocks.items() if serious_faults(block)}
    unreadable |= {
        cidr for key in snapshot.stored if (cidr := block_of_key(key)) and cidr not in snapshot.blocks
    }
    for handle, stored in snapshot.handles.items():
        counts = {cidr: count for cidr, count in stored.count_by_block if cidr not in unreadable}
        mine = real.get(handle, {})
        key = handle_key(handle)
        if not mine and len(counts) == len(stored.count_by_block):
            yield AuditFinding(
                "orphaned-handle", key, f"handle {handle} holds nothing", handle=handle, repairable=True
            )
        elif any(cidr not in mine for cidr in counts) or any(
            counts.get(cidr, 0) < mine[cidr] for cidr in mine
        ):
            text = f"handle {handle} counts {_say(counts)} but holds {_say(mine)}"
            yield AuditFinding("miscounting-handle", key, text, handle=handle, repairable=True)
    for handle, mine in real.items():
        if handle not in snapshot.handles and handle_key(handle) not in snapshot.stored:
            text = f"handle {handle} holds {_say(mine)} but has no record"
            yield AuditFinding("missing-handle", handle_key(handle), text, handle=handle, repairable=True)


def _say(counts: Mapping[Prefix, int]) -> str:
    return ", ".join(f"{count} of {cidr}" for cidr, count in sorted(counts.items(), key=str)) or "nothing"


def _usage(
    snapshot: IpamSnapshot, in_use: Collection[Address], unknown_users: Collection[str]
) -> Iterator[AuditFinding]:
    """What is allocated and known to be used by nobody, whatever pools there are."""
    for cidr, block in snapshot.blocks.items():
        if serious_faults(block) or block.owner_kind != "host":
            continue
        for ordinal, attributes in blocks.allocated(block):
            address = blocks.address_of(block, ordinal)
            if address in in_use or is_retained(attributes) or _is_no_endpoints(attributes):
                continue
            words = dict(attributes.secondary)
            who = words.get("type") or "/".join(filter(None, (words.get("namespace"), words.get("pod"))))
            text = (
                f"address {address} is allocated to {attributes.handle or 'no handle'} ({who or 'unknown'})"
            )
            kind, why = "leaked-address", " and not used: no endpoint, tunnel or kernel that was read has it"
            if unknown_users:
                some = ", ".join(sorted(unknown_users)[:MOST_NAMED])
                kind, why = "unknown-use", f", and who uses it is not known while this cannot be read: {some}"
            handle = blocks.bare_handle(attributes.handle)
            yield AuditFinding(kind, block_key(cidr), text + why, address, handle)


def _is_no_endpoints(attributes: Attributes) -> bool:
    """Whether an allocation is of Calico's for what has no endpoint: a Service, or what Windows keeps of a block."""
    handle = blocks.bare_handle(attributes.handle)
    return "service" in dict(attributes.secondary) or (handle or "").startswith(WINDOWS_HANDLE)


def _unallocated(
    snapshot: IpamSnapshot, pools: Sequence[Pool], in_use: Mapping[Address, str]
) -> Iterator[AuditFinding]:
    """What is used and lies in a pool or in a block, and is allocated to nobody."""
    sound = [block for block in snapshot.blocks.values() if not serious_faults(block)]
    known = {blocks.address_of(block, ordinal) for block in sound for ordinal, _ in blocks.allocated(block)}
    for address, user in in_use.items():
        is_ours = any(address in pool for pool in pools) or any(address in block.cidr for block in sound)
        if is_ours and address not in known:
            text = f"address {address} is used by {user} and allocated to nobody"
            yield AuditFinding("unallocated-address", user, text, address)


def _living(snapshot: IpamSnapshot, living: Mapping[Address, tuple[HandleId, str]]) -> Iterator[AuditFinding]:
    """Pods that live and whose address is nobody's, or another's: an older datastore was put in place."""
    holders = {
        blocks.address_of(block, ordinal): blocks.bare_handle(attributes.handle)
        for block in snapshot.blocks.values()
        if not serious_faults(block)
        for ordinal, attributes in blocks.allocated(block)
    }
    for address, (handle, name) in living.items():
        holder = holders.get(address)
        if holder != handle:
            text = f"address {address} of pod {name}, which lives here, is allocated to {holder or 'nobody'}"
            yield AuditFinding("living-pod-without-address", handle_key(handle), text, address, handle)


def _tunnels(
    snapshot: IpamSnapshot, tunnels: Mapping[Address, Collection[str]], of_endpoints: Mapping[Address, str]
) -> Iterator[AuditFinding]:
    """Addresses that a node's tunnel bears, and something else as well: packets to one of them are lost."""
    holders = {
        blocks.address_of(block, ordinal): (cidr, attributes)
        for cidr, block in snapshot.blocks.items()
        if not serious_faults(block)
        for ordinal, attributes in blocks.allocated(block)
    }
    for address, nodes in tunnels.items():
        node = min(nodes)
        others = [f"the tunnel of node {other}" for other in sorted({*nodes} - {node})]
        key, handle = str(address), None
        if address in holders:
            cidr, attributes = holders[address]
            key, handle = block_key(cidr), blocks.bare_handle(attributes.handle)
            words = dict(attributes.secondary)
            if "type" not in words and handle not in (None, "", *map(str, tunnel_handles(NodeName(node)))):
                others.append(f"handle {handle}, to which it is allocated")
        if address in of_endpoints:
            others.append(of_endpoints[address])
        if others:
            text = (
                f"address {address} is on a tunnel of node {node}, and also of {' and of '.join(others)}: "
                "the node's agent takes another one by itself; if it does not run, start it or delete the node"
            )
            yield AuditFinding("tunnel-address-used-twice", key, text, address, handle)


# -- repair ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Repair:
    """The transaction that repairs one finding, and what it replaces."""

    finding: AuditFinding
    transaction: Transaction
    before: tuple[tuple[str, str | None], ...]
    """(key, value or None when it did not exist)."""

    def as_json(self) -> dict[str, Any]:
        """The entry of the undo file."""
        return {"finding": self.finding.as_json(), "before": dict(self.before)}


def repairs(snapshot: IpamSnapshot, findings: Iterable[AuditFinding]) -> Iterator[Repair]:
    """The transactions that repair what the snapshot itself proves, one for each finding."""
    for finding in findings:
        if not finding.repairable:
            continue
        transaction = Transaction()
        if finding.is_harmless:
            _repair_entries(snapshot, finding.key, transaction)
        elif finding.handle is not None:
            _repair_handle(snapshot, finding.handle, transaction)
        else:
            _repair_claim(snapshot, finding, transaction)
        if transaction.writes and transaction.fits:
            before = []
            for key in transaction.writes:
                stored = snapshot.stored.get(key)
                before.append((key, stored.value.decode(errors="replace") if stored is not None else None))
            yield Repair(finding, transaction, tuple(before))


def _repair_entries(snapshot: IpamSnapshot, key: str, transaction: Transaction) -> None:
    """Write a block without what no allocation refers to."""
    cidr = block_of_key(key)
    block = snapshot.blocks.get(cidr) if cidr is not None else None
    if block is not None:
        transaction.write_block(VersionedBlock(block, snapshot.revision(key)), blocks.without_stale(block))


def _repair_handle(snapshot: IpamSnapshot, handle: HandleId, transaction: Transaction) -> None:
    """Let a handle's record say what the handle holds."""
    held = real_counts(snapshot).get(handle, {})
    stored = snapshot.handles.get(handle)
    counted = {cidr for cidr, _ in stored.count_by_block} if stored is not None else set()
    for cidr in {*held, *counted}:
        transaction.guard(block_key(cidr), snapshot.revision(block_key(cidr)))
    transaction.write_handle(handle, snapshot.revision(handle_key(handle)), held)


def _repair_claim(snapshot: IpamSnapshot, finding: AuditFinding, transaction: Transaction) -> None:
    """Delete a claim that is wrong, or write the one that a block's owner lacks."""
    found = affinity_of_key(finding.key)
    if found is not None:
        node, cidr = found
        transaction.guard(finding.key, snapshot.revision(finding.key))
        transaction.guard(block_key(cidr), snapshot.revision(block_key(cidr)))
        transaction.delete_affinity(node, cidr)
        return
    owned = block_of_key(finding.key)
    block = snapshot.blocks.get(owned) if owned is not None else None
    if block is not None and block.owner is not None:
        transaction.guard(finding.key, snapshot.revision(finding.key))
        transaction.write_affinity(block.owner, block.cidr)
