"""Claims of one node that somebody began and left: a process of Calico's died between claim and block, or was beaten.

Promises: a claim is touched only when it has been the same at two looks, for whoever is at it writes within seconds;
one guarded transaction each. What is the node's own block is confirmed, what is nobody's or another's is given up.
Does not know: when the looks are taken.
"""

from __future__ import annotations

from collections.abc import Mapping

from ipam.allocation.transaction import Transaction, read_block
from ipam.codec import decode_affinity
from ipam.etcd.store import Committed, Store, Versioned, revision_of
from ipam.failures import Unreadable
from ipam.keys import affinity_key, affinity_prefix, block_key
from ipam.model import Affinity, AffinityState, NodeName, Prefix

MOST_AT_ONCE = 64
"""Claims mended in one look."""


async def unfinished_claims(store: Store, node: NodeName) -> dict[Prefix, tuple[Affinity, int]]:
    """The node's claims that are not confirmed, each with its revision. Raises StoreError."""
    found = {}
    for version in (4, 6):
        for stored in (await store.list(affinity_prefix(node, version))).values.values():
            try:
                claim = decode_affinity(stored)
            except Unreadable:  # named by others
                continue
            if claim.state is not AffinityState.CONFIRMED:
                found[claim.block] = (claim, stored.revision)
    return found


async def end_stale_claims(
    store: Store,
    earlier: Mapping[Prefix, tuple[Affinity, int]],
    now: Mapping[Prefix, tuple[Affinity, int]],
) -> tuple[str, ...]:
    """End those that were the same at an earlier look; a sentence for each that was. Raises StoreError."""
    stale = [claim for claim in now.values() if earlier.get(claim[0].block) == claim][:MOST_AT_ONCE]
    read = await store.get_many([block_key(claim.block) for claim, _ in stale]) if stale else {}
    done = []
    for claim, revision in stale:
        stored = read.get(block_key(claim.block))
        transaction, sentence = _ended(claim, revision, stored)
        if transaction.writes and isinstance(
            await store.commit(*transaction.guards_and_operations), Committed
        ):
            done.append(sentence)
    return tuple(done)


def _ended(claim: Affinity, revision: int, stored: Versioned | None) -> tuple[Transaction, str]:
    """The transaction that ends a claim, and what it does; it writes nothing where the block cannot be read."""
    transaction = Transaction()
    transaction.guard(affinity_key(claim.node, claim.block), revision)
    transaction.guard(block_key(claim.block), revision_of(stored))
    try:
        block = read_block(stored).block if stored is not None else None
    except Unreadable:
        return transaction, ""
    was = f"claim on {claim.block}, {claim.state.value} since an earlier look"
    if block is not None and block.owner == claim.node and block.owner_kind == "host":
        if claim.state is AffinityState.PENDING:
            transaction.write_affinity(claim.node, claim.block)
        return transaction, f"{was}: confirmed, for the block is this node's"
    transaction.delete_affinity(claim.node, claim.block)
    whose = "there is no such block" if block is None else f"the block is {block.owner or 'nobody'}'s"
    return transaction, f"{was}: given up, for {whose}"
