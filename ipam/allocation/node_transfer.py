"""Gives all that a node has in address management another node's name: blocks, claims, what allocations say.

Promises: a block, its claim and the handles that bear the node's name change in one guarded transaction, so at every
moment the block has one owner and every address its holder; no address is given back. What was transferred before is
passed over, so an attempt that was cut short is finished by another.
Does not know: why, the Node resources, endpoints.
"""

from __future__ import annotations

from collections.abc import Mapping

from ipam import block as blocks
from ipam.allocation.transaction import Transaction, read_block, readable_blocks
from ipam.codec import decode_handle
from ipam.etcd.store import Committed, Delete, Put, Store, Versioned, optimistic, revision_of
from ipam.keys import (
    affinity_key,
    affinity_of_key,
    affinity_prefix,
    block_key,
    block_prefix,
    fence_key,
    handle_key,
)
from ipam.model import HandleId, NodeName, Prefix

MOST_ATTEMPTS = 100

Read = Mapping[str, Versioned]


async def transfer_node(
    store: Store, old: NodeName, new: NodeName, handles: Mapping[HandleId, HandleId]
) -> int:
    """Rename a node in all blocks and claims; how many blocks that were. `handles`: those that bear its name.

    Raises Conflict, Malformed, StoreError.
    """
    count = 0
    for version in (4, 6):
        listed = (await store.list(block_prefix(version))).values
        for cidr, versioned in readable_blocks(listed).items():
            if blocks.with_node(versioned.block, old, new, handles) is not versioned.block:
                count += await _transfer_block(store, cidr, old, new, handles)
        for key in (await store.list(affinity_prefix(old, version))).values:
            if (claim := affinity_of_key(key)) is not None:
                await _transfer_claim(store, claim[1], old, new)
    await store.commit((), (Delete(fence_key(old)),))
    return count


async def _transfer_block(
    store: Store, cidr: Prefix, old: NodeName, new: NodeName, handles: Mapping[HandleId, HandleId]
) -> bool:
    key, claims = block_key(cidr), (affinity_key(old, cidr), affinity_key(new, cidr))

    async def attempt() -> bool | None:
        read = await store.get_many([key, *claims, *map(handle_key, (*handles.keys(), *handles.values()))])
        if key not in read:
            return False
        before = read_block(read[key])
        after = blocks.with_node(before.block, old, new, handles)
        if after is before.block:
            return False
        transaction = Transaction()
        transaction.write_block(before, after)
        if before.block.owner == old:
            _move_claim(transaction, read, *claims)
        for held, name in handles.items():
            if blocks.allocations_of(before.block, held) and handle_key(held) in read:
                _rename_handle(transaction, read, held, name)
        return await _is_committed(store, transaction)

    return bool(await optimistic(attempt, MOST_ATTEMPTS, f"block {cidr}: somebody else keeps writing it"))


async def _transfer_claim(store: Store, cidr: Prefix, old: NodeName, new: NodeName) -> None:
    """A claim on a block that is another node's, or cannot be read."""
    claims = affinity_key(old, cidr), affinity_key(new, cidr)

    async def attempt() -> bool | None:
        transaction = Transaction()
        _move_claim(transaction, await store.get_many(claims), *claims)
        return await _is_committed(store, transaction)

    await optimistic(attempt, MOST_ATTEMPTS, f"{claims[0]}: somebody else keeps writing it")


def _move_claim(transaction: Transaction, read: Read, source: str, target: str) -> None:
    """The value under another key; one that is there already stays."""
    for key in (source, target):
        transaction.guard(key, revision_of(read.get(key)))
    if source in read:
        # In this order watches report it: whoever looks in between sees two claims of one machine, and never none.
        if target not in read:
            transaction.writes[target] = Put(target, read[source].value)
        transaction.writes[source] = Delete(source)


def _rename_handle(transaction: Transaction, read: Read, held: HandleId, name: HandleId) -> None:
    counts = dict(decode_handle(read[handle_key(held)]).count_by_block)
    known = read.get(handle_key(name))
    for cidr, count in decode_handle(known).count_by_block if known is not None else ():
        counts[cidr] = counts.get(cidr, 0) + count
    transaction.write_handle(held, revision_of(read[handle_key(held)]), {})
    transaction.write_handle(name, revision_of(known), counts)


async def _is_committed(store: Store, transaction: Transaction) -> bool | None:
    """None when others were quicker."""
    if not transaction.writes:
        return False
    return True if isinstance(await store.commit(*transaction.guards_and_operations), Committed) else None
