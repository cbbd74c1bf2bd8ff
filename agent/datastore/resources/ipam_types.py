"""Resources about addresses besides pools: IPReservation, IPAMConfiguration, BlockAffinity.

Promises: pure; names and defaults are Calico's.
Does not know: where they are stored: the last two are no resources in etcd,
`agent.datastore.storage_layout` makes them so.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from msgspec import UNSET, Struct, UnsetType, field

from agent.datastore.resources.text_forms import Networks
from ipam.address_text import text_of
from ipam.model import Affinity, IpamConfig

PERSISTENCE = "kubeVirtVMAddressPersistence"
"""Preserved for Calico; this program runs no virtual machines."""


class IPReservationSpec(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Addresses and networks that are not assigned unless asked for by name."""

    reserved_cidrs: Networks = field(default_factory=list, name="reservedCIDRs")


class IPAMConfigurationSpec(Struct, frozen=True, kw_only=True, rename="camel"):
    """The cluster's rules of allocation."""

    strict_affinity: bool = False
    auto_allocate_blocks: bool = True
    max_blocks_per_host: int = 0
    ip_cooldown_seconds: int = field(default=0, name="ipCooldownSeconds")
    kube_virt_vm_address_persistence: str | UnsetType = field(default=UNSET, name=PERSISTENCE)


class BlockAffinitySpec(Struct, frozen=True, kw_only=True, rename="camel"):
    """A node's claim on a block."""

    state: str
    node: str
    cidr: str
    type: str = "host"
    deleted: str = "false"


def rules_of(spec: IPAMConfigurationSpec, stored: IpamConfig) -> IpamConfig:
    """The rules as allocation has them; what this program does not know stays as stored."""
    other = json.loads(stored.other) if stored.other else {}
    other.pop(PERSISTENCE, None)
    if spec.kube_virt_vm_address_persistence is not UNSET:
        other[PERSISTENCE] = spec.kube_virt_vm_address_persistence
    return replace(
        stored,
        strict_affinity=spec.strict_affinity,
        auto_allocate_blocks=spec.auto_allocate_blocks,
        blocks_per_node=spec.max_blocks_per_host,
        cooldown_seconds=spec.ip_cooldown_seconds,
        other=json.dumps(other, sort_keys=True) if other else "",
    )


def configuration_document(rules: IpamConfig) -> dict[str, Any]:
    """The `spec` of stored rules."""
    known = {
        "strictAffinity": rules.strict_affinity,
        "autoAllocateBlocks": rules.auto_allocate_blocks,
        "maxBlocksPerHost": rules.blocks_per_node,
        "ipCooldownSeconds": rules.cooldown_seconds,
    }
    return {**known, **(json.loads(rules.other) if rules.other else {})}


def affinity_name(affinity: Affinity) -> str:
    """As Calico names it: `node1-192-168-0-0-26`."""
    return f"{affinity.node}-{re.sub('[.:/]', '-', text_of(affinity.block))}"
