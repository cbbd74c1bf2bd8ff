"""Out of a copy of the whole datastore: the pools, and which addresses endpoints and nodes say they have.

Promises: pure; a damaged resource is named and hides no other. Does not know: the store, allocation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from agent.datastore.resources.endpoint_form import profile_key
from agent.datastore.resources.namespace_profile import NAMESPACE_PROFILE, namespace_labels
from agent.datastore.resources.resource_types import PLURALS, Node, WorkloadEndpoint
from agent.datastore.resources.schema import value_at
from agent.datastore.storage_layout import KIND_PREFIXES, pool_record, read_valid
from ipam.codec import decode_reservation
from ipam.etcd.store import Versioned
from ipam.failures import Unreadable
from ipam.keys import RESERVATIONS, resource_name, resource_prefix
from ipam.model import Address, PoolRecord, Prefix
from ipam.stored_json import read_stored, stored_object

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
    namespaces: dict[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    """Namespaces of Kubernetes whose labels are known -> those."""
    tunnels: dict[Address, list[str]] = field(default_factory=dict)
    """The addresses of tunnels, and the nodes that name each as theirs."""
    of_endpoints: dict[Address, str] = field(default_factory=dict)
    """The addresses that endpoints name; `in_use` has one user of each alone."""
    unknown_users: set[str] = field(default_factory=set)
    """Keys of endpoints and nodes whose addresses cannot be read."""


def inventory(stored: Mapping[str, Versioned]) -> Inventory:
    """Read every pool, reservation, endpoint and node of a copy."""
    found = Inventory()
    for key, value in sorted(stored.items()):
        prefix = next((prefix for prefix in _READERS if key.startswith(prefix)), None)
        if prefix is None:
            continue
        try:
            _READERS[prefix](found, value)
        except Unreadable as error:
            found.damaged[error.key] = str(error)
    return found


def _pool(found: Inventory, value: Versioned) -> None:
    found.pools.append(pool_record(value))


def _reservation(found: Inventory, value: Versioned) -> None:
    found.reserved += decode_reservation(value)


def _profile(found: Inventory, value: Versioned) -> None:
    _, _, name = value.key.rpartition(f"/{NAMESPACE_PROFILE}")
    if name and value.key == profile_key(f"{NAMESPACE_PROFILE}{name}"):
        found.namespaces[name] = namespace_labels(value)


def _endpoint(found: Inventory, value: Versioned) -> None:
    """What an endpoint says of addresses counts even if something else of it cannot be used."""
    name = resource_name(value.key, PLURALS["WorkloadEndpoint"]) or (None, value.key)
    document = _user_document(found, value)
    texts = value_at(document, ("spec", "ipNetworks")) or ()
    user = f"endpoint {'/'.join(filter(None, name))}"
    for address in _note(found, texts if isinstance(texts, list) else (texts,), user, value.key):
        found.of_endpoints[address] = user
    read_valid(WorkloadEndpoint, value)


def _node(found: Inventory, value: Versioned) -> None:
    name = resource_name(value.key, PLURALS["Node"])
    if name is not None:
        found.nodes.add(name[1])
        node = _user_document(found, value)
        texts = (text for path in TUNNEL_FIELDS if (text := value_at(node, path)) is not None)
        for address in _note(found, texts, f"node {name[1]}", value.key):
            found.tunnels.setdefault(address, []).append(name[1])
    read_valid(Node, value)


def _user_document(found: Inventory, value: Versioned) -> dict[str, Any]:
    """The document of an endpoint or node, valid or not. Raises Unreadable."""
    try:
        return read_stored(value, stored_object)
    except Unreadable as error:
        found.unknown_users.add(error.key)
        raise


def _note(found: Inventory, texts: Iterable[object], user: str, key: str) -> list[Address]:
    addresses = []
    for text in texts:
        try:
            addresses.append(ip_address(str(text).partition("/")[0]))
        except ValueError:
            found.unknown_users.add(key)
    found.in_use.update(dict.fromkeys(addresses, user))
    return addresses


_READERS: Mapping[str, Callable[[Inventory, Versioned], None]] = {
    KIND_PREFIXES["IPPool"]: _pool,
    RESERVATIONS: _reservation,
    resource_prefix("profiles"): _profile,
    KIND_PREFIXES["WorkloadEndpoint"]: _endpoint,
    KIND_PREFIXES["Node"]: _node,
}
