"""Out of a copy of the whole datastore: the pools, and which addresses endpoints and nodes say they have.

Promises: pure; a damaged resource is named and hides no other. Does not know: the store, allocation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

import msgspec

from agent.datastore.resources.resource_types import PLURALS
from agent.datastore.resources.schema import value_at
from agent.datastore.storage_layout import KIND_PREFIXES, pool_record
from ipam.codec import decode_reservation
from ipam.etcd.store import Versioned
from ipam.failures import IpamError
from ipam.keys import RESERVATIONS, resource_name
from ipam.model import Address, PoolRecord, Prefix

TUNNEL_FIELDS = (
    ("spec", "bgp", "ipv4IPIPTunnelAddr"),
    ("spec", "ipv4VXLANTunnelAddr"),
    ("spec", "ipv6VXLANTunnelAddr"),
    ("spec", "wireguard", "interfaceIPv4Address"),
    ("spec", "wireguard", "interfaceIPv6Address"),
)
"""Where a Node names addresses that it took from pools."""


@dataclass(slots=True)
class Inventory:
    """What was found."""

    pools: list[PoolRecord] = field(default_factory=list)
    in_use: dict[Address, str] = field(default_factory=dict)
    reserved: list[Prefix] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)
    nodes: set[str] = field(default_factory=set)


def inventory(stored: Mapping[str, Versioned]) -> Inventory:
    """Read every pool, reservation, endpoint and node of a copy."""
    found = Inventory()
    for key, value in sorted(stored.items()):
        try:
            if key.startswith(KIND_PREFIXES["IPPool"]):
                found.pools.append(pool_record(value))
            elif key.startswith(RESERVATIONS):
                found.reserved += decode_reservation(key, value.value)
            elif (name := resource_name(key, PLURALS["WorkloadEndpoint"])) is not None:
                for text in value_at(json.loads(value.value), ("spec", "ipNetworks")) or []:
                    found.in_use[ip_address(str(text).partition("/")[0])] = (
                        f"endpoint {'/'.join(filter(None, name))}"
                    )
            elif (name := resource_name(key, PLURALS["Node"])) is not None:
                found.nodes.add(name[1])
                node = json.loads(value.value)
                for path in TUNNEL_FIELDS:
                    if text := value_at(node, path):
                        found.in_use[ip_address(text)] = f"node {name[1]}"
        except (ValueError, TypeError, AttributeError, msgspec.MsgspecError, IpamError) as error:
            found.damaged[key] = f"{key}: {error}"
    return found
