"""Which settings of the cluster's allocation rules go together, and the guarded write of a change.

Promises: rules that contradict each other are refused with one sentence; fields of a newer Calico are kept.
Does not know: command lines.
"""

from __future__ import annotations

from collections.abc import Callable

from ipam.codec import decode_config, encode_config
from ipam.etcd.store import Committed, Put, Store, Unchanged
from ipam.failures import Conflict, Refused
from ipam.keys import IPAM_CONFIG
from ipam.model import IpamConfig

MOST_ATTEMPTS = 10
LONGEST_COOLDOWN_SECONDS = 1200
MOST_BLOCKS = 2**31 - 1


def fault(config: IpamConfig) -> str | None:
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


async def rules(store: Store) -> IpamConfig:
    """The rules now; a missing key reads as the defaults. Raises Malformed, StoreError."""
    stored = await store.get(IPAM_CONFIG)
    return decode_config(IPAM_CONFIG, stored.value) if stored is not None else IpamConfig()


async def configure(store: Store, change: Callable[[IpamConfig], IpamConfig]) -> IpamConfig:
    """Change the rules. Raises Refused when they contradict each other, Conflict, Malformed, StoreError."""
    for _ in range(MOST_ATTEMPTS):
        stored = await store.get(IPAM_CONFIG)
        before = decode_config(IPAM_CONFIG, stored.value) if stored is not None else IpamConfig()
        wanted = change(before)
        if (sentence := fault(wanted)) is not None:
            raise Refused(sentence)
        guard = Unchanged(IPAM_CONFIG, stored.revision if stored is not None else 0)
        if isinstance(await store.commit((guard,), (Put(IPAM_CONFIG, encode_config(wanted)),)), Committed):
            return wanted
    raise Conflict("the allocation rules keep being changed by somebody else; try again")
