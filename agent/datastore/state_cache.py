"""The facts: what the datastore holds that this node cares about, decoded once.

Promises: only the present value counts, so repeated, skipped and late events are harmless; a value that cannot be read
counts as absent, or as what it was before (see `KEPT`), and its reason is kept in `problems`. Owned by the syncer; the
CNI server adopts and forgets its own endpoints so that they need not come back over the watch first. A property answers
the same object until something of its kind changes, so asking costs nothing and comparing little.
Does not know: etcd, watches, the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from agent.datastore.resources.bgp_types import BGPConfigurationSpec, BGPFilterSpec, BGPPeerSpec
from agent.datastore.resources.bgp_validation import NODE_PREFIX, validate_bgp
from agent.datastore.resources.ip_pool import pool
from agent.datastore.resources.resource_types import (
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
from ipam.block import address_of, allocated
from ipam.codec import decode_affinity, decode_block
from ipam.etcd.store import Versioned
from ipam.failures import IpamError
from ipam.keys import BLOCKS, HOSTS, affinity_of_key, resource_key, resource_name, resource_prefix
from ipam.model import AffinityState, NodeName, PoolRecord, Prefix

POOLS = resource_prefix(PLURALS["IPPool"])
NODES = resource_prefix(PLURALS["Node"])
BGP_SETTINGS = resource_prefix(PLURALS["BGPConfiguration"])
BGP_PEERS = resource_prefix(PLURALS["BGPPeer"])
BGP_FILTERS = resource_prefix(PLURALS["BGPFilter"])
ENDPOINTS = resource_prefix(PLURALS["WorkloadEndpoint"])
AFFINITIES = HOSTS
KEPT = frozenset({NODES, BGP_SETTINGS, BGP_PEERS, BGP_FILTERS})
"""Of these a value that became unreadable leaves the last readable one in force: a slip must end no session."""
_View = TypeVar("_View")


def endpoint_prefix(namespace: str, node: NodeName) -> str:
    """Where a node's own endpoints of one namespace are: a watch there does not hear of other nodes' pods."""
    return resource_key(PLURALS["WorkloadEndpoint"], f"{node.replace('-', '--')}-", namespace)


class StateCache:
    """The decoded facts, by etcd key."""

    def __init__(self, node: NodeName) -> None:
        self.node = node
        self._sections: dict[str, dict[str, Any]] = {prefix: {} for prefix in _DECODERS}
        """Prefix -> etcd key -> value."""
        self._views: dict[str, Any] = {}
        """Prefix -> what its property answers: made anew only after a change below that prefix."""
        self.problems: dict[str, str] = {}
        """etcd key -> why its value cannot be used."""
        self._meanwhile: dict[str, dict[str, WorkloadEndpoint | None]] = {}
        """Prefix that is being listed -> this node's pods that came or went since; at most one entry per pod."""
        self._making: dict[str, list[WorkloadEndpoint | None]] = {}
        """Key of an endpoint that a CNI call is making -> the last that was heard of it, if anything."""

    def begin_listing(self, prefix: str) -> None:
        """A complete list is asked for: what is adopted or forgotten from now on is news that it may not have."""
        self._meanwhile[prefix] = {}

    def replace(self, prefix: str, values: Mapping[str, Versioned]) -> None:
        """Everything below `prefix` is now exactly this, but for what came or went here while it was listed."""
        known = {key for section in self._sections.values() for key in section} | self.problems.keys()
        for key in known - values.keys():
            if key.startswith(prefix):
                self.apply(key, None)
        for key, value in values.items():
            self.apply(key, value)
        for key, endpoint in self._meanwhile.pop(prefix, {}).items():
            self._set(ENDPOINTS, key, endpoint)

    def apply(self, key: str, value: Versioned | None) -> bool:
        """One key is now this, or gone; whether that is news."""
        problem = self.problems.pop(key, None)
        prefix = next((prefix for prefix in _DECODERS if key.startswith(prefix)), None)
        if prefix is None:
            return False
        decoded = self._read(prefix, value) if value is not None else None
        turned = problem != self.problems.get(key)
        if key in self.problems and prefix in KEPT:
            return turned
        if isinstance(decoded, WorkloadEndpoint) and decoded.spec.node != self.node:
            decoded = None
        if key in self._making:
            self._making[key] = [decoded]
            return turned
        return self._set(prefix, key, decoded) or turned

    def _read(self, prefix: str, value: Versioned) -> Any:
        try:
            return _DECODERS[prefix](value)
        except (ValueError, msgspec.MsgspecError, IpamError) as error:
            self.problems[value.key] = str(error)
            return None

    def _set(self, prefix: str, key: str, decoded: Any) -> bool:
        section = self._sections[prefix]
        known = section.get(key)
        if decoded is None and known is None:
            return False
        if isinstance(known, WorkloadEndpoint) and _same(known, decoded):
            # What a CNI call adopted, once more over the watch: no news, but now its revision is known.
            section[key] = decoded if decoded.metadata.resource_version is not None else known
            return False
        if decoded is not None:
            section[key] = decoded
        else:
            del section[key]
        self._views.pop(prefix, None)
        return True

    def add_endpoint(self, endpoint: WorkloadEndpoint) -> None:
        """A local endpoint was just written."""
        self._set_own(_endpoint_key(endpoint), endpoint)

    def remove_endpoint(self, endpoint: WorkloadEndpoint) -> None:
        """A local endpoint was just removed."""
        if (key := _endpoint_key(endpoint)) in self._making:
            self._making[key] = []  # heard of before that
        self._set_own(_endpoint_key(endpoint), None)

    @contextmanager
    def ignore_watch(self, key: str, news: Callable[[], None]) -> Iterator[None]:
        """Somebody writes an endpoint, and will say when it is one: what the watch tells of it meanwhile is put off.

        `news` is called at the end if that was something else than what was said.
        """
        self._making.setdefault(key, [])
        try:
            yield
        finally:
            for last in self._making.pop(key, []):
                if self._set(ENDPOINTS, key, last):
                    news()

    def _set_own(self, key: str, endpoint: WorkloadEndpoint | None) -> None:
        for prefix, came_or_went in self._meanwhile.items():
            if key.startswith(prefix):
                came_or_went[key] = endpoint
        self._set(ENDPOINTS, key, endpoint)

    def _view(self, prefix: str, made: Callable[[Collection[Any]], _View]) -> _View:
        if prefix not in self._views:
            self._views[prefix] = made(self._sections[prefix].values())
        found: _View = self._views[prefix]
        return found

    @property
    def pools(self) -> tuple[PoolRecord, ...]:
        """All readable pools, by name as Calico orders them."""
        return self._view(
            POOLS, lambda records: tuple(sorted(records, key=lambda record: str(record.pool.name)))
        )

    @property
    def nodes(self) -> Mapping[NodeName, Node]:
        """All readable nodes."""
        return self._view(NODES, lambda nodes: {NodeName(node.metadata.name): node for node in nodes})

    @property
    def endpoints(self) -> tuple[WorkloadEndpoint, ...]:
        """This node's own endpoints."""
        return self._view(ENDPOINTS, tuple)

    def endpoint(self, key: str) -> WorkloadEndpoint | None:
        """This node's endpoint under an etcd key."""
        return self._sections[ENDPOINTS].get(key)

    def find_endpoint(
        self, wanted: Callable[[WorkloadEndpoint], bool]
    ) -> tuple[str, WorkloadEndpoint] | None:
        """The first of this node's endpoints that is wanted, with its etcd key."""
        for key, value in self._sections[ENDPOINTS].items():
            if wanted(value):
                return key, value
        return None

    @property
    def bgp_configuration(self) -> BGPConfigurationSpec:
        """The object named `default`, or the defaults."""
        return self.bgp_configurations.get("default", BGPConfigurationSpec())

    @property
    def bgp_configurations(self) -> Mapping[str, BGPConfigurationSpec]:
        """All readable BGP settings by name: `default` and `node.NAME`."""
        return self._view(BGP_SETTINGS, _specs)

    @property
    def own_bgp_configuration(self) -> BGPConfigurationSpec | None:
        """What this node alone is told."""
        return self.bgp_configurations.get(f"{NODE_PREFIX}{self.node}")

    @property
    def bgp_peers(self) -> Mapping[str, BGPPeerSpec]:
        """All readable peerings by name, in the order of names."""
        return self._view(BGP_PEERS, _specs)

    @property
    def bgp_filters(self) -> Mapping[str, BGPFilterSpec]:
        """All readable filters by name."""
        return self._view(BGP_FILTERS, _specs)

    @property
    def block_owners(self) -> Mapping[Prefix, NodeName]:
        """Who owns which block: confirmed claims only."""
        return self._view(
            AFFINITIES,
            lambda claims: {block: node for node, block, state in claims if state is AffinityState.CONFIRMED},
        )

    @property
    def borrowed(self) -> Mapping[Prefix, NodeName]:
        """Addresses that nodes took from others' blocks; none unless the contents of blocks are followed."""
        return self._view(
            BLOCKS, lambda blocks: {prefix: node for block in blocks for prefix, node in block.nodes}
        )


def _same(known: WorkloadEndpoint, other: WorkloadEndpoint | None) -> bool:
    """Whether two readings say the same, whatever their revisions."""
    if other is None or known.spec != other.spec:
        return False
    one, two = (replace(item.metadata, resource_version=None) for item in (known, other))
    return bool(one == two)


def _specs(resources: Collection[Any]) -> dict[str, Any]:
    return {item.metadata.name: item.spec for item in sorted(resources, key=lambda item: item.metadata.name)}


@dataclass(frozen=True, slots=True)
class Borrowings:
    """Of one block, what is in use on another node than its owner."""

    nodes: tuple[tuple[Prefix, NodeName], ...]


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


def _resource(
    kind: type[Node | BGPConfiguration | BGPPeer | BGPFilter | WorkloadEndpoint], plural: str
) -> Callable[[Versioned], Any]:
    def read(value: Versioned) -> Any:
        if not resource_name(value.key, plural):
            return None
        resource = decode(kind, value.value, value.revision)
        if faults := validate_bgp(resource):
            raise ValueError(faults[0])
        return resource

    return read


def _borrowings(value: Versioned) -> Borrowings | None:
    block = decode_block(value.key, value.value)
    found: list[tuple[Prefix, NodeName]] = []
    for ordinal, attributes in allocated(block):
        node = dict(attributes.secondary).get("node")
        if node is not None and node != block.owner:
            found.append((ip_network(address_of(block, ordinal)), NodeName(node)))
    return Borrowings(tuple(found)) if found else None


def _affinity(value: Versioned) -> tuple[NodeName, Prefix, AffinityState] | None:
    found: tuple[NodeName, Prefix] | None = affinity_of_key(value.key)
    return None if found is None else (*found, decode_affinity(value.key, value.value).state)


_DECODERS: dict[str, Callable[[Versioned], Any]] = {
    POOLS: _pool,
    NODES: _resource(Node, PLURALS["Node"]),
    BGP_SETTINGS: _resource(BGPConfiguration, PLURALS["BGPConfiguration"]),
    BGP_PEERS: _resource(BGPPeer, PLURALS["BGPPeer"]),
    BGP_FILTERS: _resource(BGPFilter, PLURALS["BGPFilter"]),
    ENDPOINTS: _resource(WorkloadEndpoint, PLURALS["WorkloadEndpoint"]),
    AFFINITIES: _affinity,
    BLOCKS: _borrowings,
}
