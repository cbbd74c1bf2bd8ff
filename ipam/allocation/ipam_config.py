"""The cluster's allocation rules: which settings go together, how they are read, and the guarded write of a change.

Promises: rules that contradict each other are refused with one sentence; fields of a newer Calico are preserved.
Does not know: command lines.
"""

from __future__ import annotations

from collections.abc import Callable

from ipam.codec import decode_config, encode_config
from ipam.etcd.store import Committed, Put, Store, Unchanged, Versioned, optimistic, revision_of
from ipam.failures import Refused
from ipam.keys import IPAM_CONFIG
from ipam.model import IpamConfig

MOST_ATTEMPTS = 10
LONGEST_COOLDOWN_SECONDS = 1200
MOST_BLOCKS = 2**31 - 1


def config_fault(config: IpamConfig) -> str | None:
    """Why these rules cannot hold together (Calico's own constraints)."""
    if not config.strict_affinity and not config.auto_allocate_blocks:
        return (
            "autoAllocateBlocks can be off only with strictAffinity on: else every address would be borrowed"
        )
    if config.blocks_per_node and not config.strict_affinity:
        return "maxBlocksPerHost needs strictAffinity: else nodes at the limit would borrow"
    if not 0 <= config.blocks_per_node <= MOST_BLOCKS:
        return f"maxBlocksPerHost: {config.blocks_per_node} is outside 0 to {MOST_BLOCKS}"
    if not 0 <= config.cooldown_seconds <= LONGEST_COOLDOWN_SECONDS:
        return f"ipCooldownSeconds: {config.cooldown_seconds} is outside 0 to {LONGEST_COOLDOWN_SECONDS}"
    return None


def read_config(stored: Versioned | None) -> IpamConfig:
    """The rules out of what is stored; a missing key reads as the defaults. Raises Malformed."""
    return decode_config(stored) if stored is not None else IpamConfig()


async def configure(store: Store, change: Callable[[IpamConfig], IpamConfig]) -> IpamConfig:
    """Change the rules. Raises Refused when they contradict each other, Conflict, Malformed, StoreError."""

    async def attempt() -> IpamConfig | None:
        stored = await store.get(IPAM_CONFIG)
        changed = change(read_config(stored))
        if (sentence := config_fault(changed)) is not None:
            raise Refused(sentence)
        guard, put = Unchanged(IPAM_CONFIG, revision_of(stored)), Put(IPAM_CONFIG, encode_config(changed))
        return changed if isinstance(await store.commit((guard,), (put,)), Committed) else None

    overtaken = "the allocation rules keep being changed by somebody else; try again"
    return await optimistic(attempt, MOST_ATTEMPTS, overtaken)
