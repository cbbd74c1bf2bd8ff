"""The facts: what the datastore holds that this node cares about, decoded once.

Promises: only the present value counts, so repeated, skipped and late events are harmless; a value that cannot be read
counts as absent and its reason is kept in `problems`. Owned by the syncer; the CNI server adopts and forgets its own
endpoints so that they need not come back over the watch first.
Does not know: etcd, watches, the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from agent.datastore.bgp_faults import NODE_PREFIX, bgp_faults
from agent.datastore.bgp_resources import BGPConfigurationSpec, BGPFilterSpec, BGPPeerSpec
from agent.datastore.pools import pool
from agent.datastore.resources import (
    PLURALS,
    BGPConfiguration,
    BGPFilter,
    BGPPeer,
    IPPool,
    Node,
    WorkloadEndpoint,
    decode,
    kind_of,
)
from ipam.codec import decode_affinity
from ipam.errors import IpamError
from ipam.keys import HOSTS, affinity_of_key, resource_key, resource_name, resource_prefix
from ipam.model import AffinityState, NodeName, PoolRecord, Prefix
from ipam.store import Versioned

POOLS = resource_prefix(PLURALS["IPPool"])
NODES = resource_prefix(PLURALS["Node"])
BGP_SETTINGS = resource_prefix(PLURALS["BGPConfiguration"])
BGP_PEERS = resource_prefix(PLURALS["BGPPeer"])
BGP_FILTERS = resource_prefix(PLURALS["BGPFilter"])
ENDPOINTS = resource_prefix(PLURALS["WorkloadEndpoint"])
AFFINITIES = HOSTS


def endpoint_prefix(namespace: str, node: NodeName) -> str:
    """Where a node's own endpoints of one namespace are: a watch there does not hear of other nodes' pods."""
    return resource_key(PLURALS["WorkloadEndpoint"], f"{node.replace('-', '--')}-", namespace)


class Cluster:
    """The decoded facts, by etcd key."""

    def __init__(self, node: NodeName) -> None:
        self.node = node
        self._decoded: dict[str, Any] = {}
        self.problems: dict[str, str] = {}
        """etcd key -> why its value cannot be used."""

    def replace(self, prefix: str, values: Mapping[str, Versioned]) -> None:
        """Everything below `prefix` is now exactly this."""
        for key in [
            key for key in (*self._decoded, *self.problems) if key.startswith(prefix) and key not in values
        ]:
            self.apply(key, None)
        for key, value in values.items():
            self.apply(key, value)

    def apply(self, key: str, value: Versioned | None) -> None:
        """One key is now this, or gone."""
        self._decoded.pop(key, None)
        self.problems.pop(key, None)
        decoder = next((decoder for prefix, decoder in _DECODERS.items() if key.startswith(prefix)), None)
        if value is None or decoder is None:
            return
        try:
            decoded = decoder(value)
        except (ValueError, msgspec.MsgspecError, IpamError) as error:
            self.problems[key] = str(error)
            return
        if isinstance(decoded, WorkloadEndpoint) and decoded.spec.node != self.node:
            return
        if decoded is not None:
            self._decoded[key] = decoded

    def adopt(self, endpoint: WorkloadEndpoint) -> None:
        """A local endpoint was just written."""
        self._decoded[_endpoint_key(endpoint)] = endpoint

    def forget(self, endpoint: WorkloadEndpoint) -> None:
        """A local endpoint was just removed."""
        self._decoded.pop(_endpoint_key(endpoint), None)

    @property
    def pools(self) -> tuple[PoolRecord, ...]:
        """All readable pools, by name as Calico orders them."""
        return tuple(sorted(self._of(PoolRecord), key=lambda record: record.pool.name))

    @property
    def nodes(self) -> Mapping[NodeName, Node]:
        """All readable nodes."""
        return {NodeName(node.metadata.name): node for node in self._of(Node)}

    @property
    def endpoints(self) -> tuple[WorkloadEndpoint, ...]:
        """This node's own endpoints."""
        return tuple(self._of(WorkloadEndpoint))

    def endpoint(self, key: str) -> WorkloadEndpoint | None:
        """This node's endpoint under an etcd key."""
        found = self._decoded.get(key)
        return found if isinstance(found, WorkloadEndpoint) else None

    def keyed_endpoint(
        self, wanted: Callable[[WorkloadEndpoint], bool]
    ) -> tuple[str, WorkloadEndpoint] | None:
        """The first of this node's endpoints that is wanted, with its etcd key."""
        for key, value in self._decoded.items():
            if isinstance(value, WorkloadEndpoint) and wanted(value):
                return key, value
        return None

    @property
    def bgp(self) -> BGPConfigurationSpec:
        """The object named `default`, or the defaults."""
        return self.bgp_configurations.get("default", BGPConfigurationSpec())

    @property
    def bgp_configurations(self) -> Mapping[str, BGPConfigurationSpec]:
        """All readable BGP settings by name: `default` and `node.NAME`."""
        return {item.metadata.name: item.spec for item in self._of(BGPConfiguration)}

    @property
    def own_bgp(self) -> BGPConfigurationSpec | None:
        """What this node alone is told."""
        return self.bgp_configurations.get(f"{NODE_PREFIX}{self.node}")

    @property
    def bgp_peers(self) -> Mapping[str, BGPPeerSpec]:
        """All readable peerings by name, in the order of names."""
        return {item.metadata.name: item.spec for item in sorted(self._of(BGPPeer), key=_name)}

    @property
    def bgp_filters(self) -> Mapping[str, BGPFilterSpec]:
        """All readable filters by name."""
        return {item.metadata.name: item.spec for item in self._of(BGPFilter)}

    @property
    def block_owners(self) -> Mapping[Prefix, NodeName]:
        """Who owns which block: confirmed claims only."""
        owners: dict[Prefix, NodeName] = {}
        for key, state in self._decoded.items():
            found = affinity_of_key(key) if state is AffinityState.CONFIRMED else None
            if found is not None:
                owners[found[1]] = found[0]
        return owners

    def _of(self, kind: type[Any]) -> list[Any]:
        return [value for value in self._decoded.values() if isinstance(value, kind)]


def own_blocks(owners: Mapping[Prefix, NodeName], node: NodeName) -> frozenset[Prefix]:
    """The blocks that `node` owns."""
    return frozenset(block for block, owner in owners.items() if owner == node)


def _endpoint_key(endpoint: WorkloadEndpoint) -> str:
    return resource_key(
        PLURALS[kind_of(endpoint)], endpoint.metadata.name, endpoint.metadata.namespace or "default"
    )


def _pool(value: Versioned) -> PoolRecord:
    resource = decode(IPPool, value.value, value.revision)
    assert isinstance(resource, IPPool)
    return PoolRecord(pool(resource), value.key, value.revision)


def _name(resource: BGPPeer) -> str:
    return resource.metadata.name


def _resource(
    kind: type[Node | BGPConfiguration | BGPPeer | BGPFilter | WorkloadEndpoint], plural: str
) -> Callable[[Versioned], Any]:
    def read(value: Versioned) -> Any:
        if not resource_name(value.key, plural):
            return None
        resource = decode(kind, value.value, value.revision)
        if faults := bgp_faults(resource):
            raise ValueError(faults[0])
        return resource

    return read


def _affinity(value: Versioned) -> AffinityState | None:
    found: tuple[NodeName, Prefix] | None = affinity_of_key(value.key)
    return None if found is None else decode_affinity(value.key, value.value).state


_DECODERS: dict[str, Callable[[Versioned], Any]] = {
    POOLS: _pool,
    NODES: _resource(Node, PLURALS["Node"]),
    BGP_SETTINGS: _resource(BGPConfiguration, PLURALS["BGPConfiguration"]),
    BGP_PEERS: _resource(BGPPeer, PLURALS["BGPPeer"]),
    BGP_FILTERS: _resource(BGPFilter, PLURALS["BGPFilter"]),
    ENDPOINTS: _resource(WorkloadEndpoint, PLURALS["WorkloadEndpoint"]),
    AFFINITIES: _affinity,
}
