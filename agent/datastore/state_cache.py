"""The watched state of the cluster: the part of the datastore that matters to this node, decoded once.

Promises: only the present value counts, so repeated, skipped and late events are harmless; a value that cannot be read
counts as absent, or as what it was before (see `LAST_READABLE_STAYS`), and `problems` has its reason. Written by the
syncer; the CNI server adds and removes its own endpoints so that they need not come back over the watch first. A
property answers the same object until something of its kind changes, so asking costs nothing and comparing little.
Does not know: etcd, watches, the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_network
from typing import Any, TypeVar

import msgspec

from agent.datastore.resources.bgp_types import BGPConfigurationSpec, BGPFilterSpec, BGPPeerSpec
from agent.datastore.resources.resource_types import (
    PLURALS,
    BGPConfiguration,
    BGPFilter,
    BGPPeer,
    Node,
    WorkloadEndpoint,
    decode,
    with_revision,
)
from agent.datastore.resources.validation import NODE_PREFIX, validate_bgp
from agent.datastore.storage_layout import KIND_PREFIXES, key_of, pool_record
from ipam.block import address_of, allocated
from ipam.codec import decode_affinity, decode_block
from ipam.etcd.store import Versioned
from ipam.failures import IpamError
from ipam.keys import BLOCKS, affinity_of_key, resource_key, resource_name
from ipam.model import AffinityState, NodeName, PoolRecord, Prefix

POOLS = KIND_PREFIXES["IPPool"]
NODES = KIND_PREFIXES["Node"]
BGP_SETTINGS = KIND_PREFIXES["BGPConfiguration"]
BGP_PEERS = KIND_PREFIXES["BGPPeer"]
BGP_FILTERS = KIND_PREFIXES["BGPFilter"]
ENDPOINTS = KIND_PREFIXES["WorkloadEndpoint"]
AFFINITIES = KIND_PREFIXES["BlockAffinity"]
LAST_READABLE_STAYS = frozenset({NODES, BGP_SETTINGS, BGP_PEERS, BGP_FILTERS})
"""A value below these that became unreadable leaves the last readable one in force: a slip must end no session."""
_View = TypeVar("_View")


def endpoint_prefix(namespace: str, node: NodeName) -> str:
    """The prefix of a node's own endpoints of one namespace: a watch there has no events of other nodes' pods."""
    return resource_key(PLURALS["WorkloadEndpoint"], f"{node.replace('-', '--')}-", namespace)


class StateCache:
    """The decoded values by etcd key, and views of them by kind."""

    def __init__(self, node: NodeName) -> None:
        self.node = node
        self._sections: dict[str, dict[str, Any]] = {prefix: {} for prefix in _DECODERS}
        """Prefix -> etcd key -> value."""
        self._views: dict[str, Any] = {}
        """Prefix -> what its property answers: made anew only after a change below that prefix."""
        self.problems: dict[str, str] = {}
        """etcd key -> why its value cannot be used."""
        self._meanwhile: dict[str, dict[str, WorkloadEndpoint | None]] = {}
        """Prefix that is being listed -> endpoints added or removed here since; at most one entry per pod."""
        self._ignored: dict[str, list[WorkloadEndpoint | None]] = {}
        """Key of an endpoint that a CNI call is making -> its last value by the watch, if there was one."""

    def begin_listing(self, prefix: str) -> None:
        """A complete list is asked for: an endpoint added or removed from now on may not be in it."""
        self._meanwhile[prefix] = {}

    def replace(self, prefix: str, values: Mapping[str, Versioned]) -> None:
        """Everything below `prefix` is now this, but for endpoints added or removed here while it was listed."""
        known = {key for section in self._sections.values() for key in section} | self.problems.keys()
        for key in known - values.keys():
            if key.startswith(prefix):
                self.apply(key, None)
        for key, value in values.items():
            self.apply(key, value)
        for key, endpoint in self._meanwhile.pop(prefix, {}).items():
            self._set(ENDPOINTS, key, endpoint)

    def apply(self, key: str, value: Versioned | None) -> bool:
        """One key has this value now, or (None) is gone; whether that is a change."""
        problem = self.problems.pop(key, None)
        prefix = next((prefix for prefix in _DECODERS if key.startswith(prefix)), None)
        if prefix is None:
            return False
        decoded = self._read(prefix, value) if value is not None else None
        changed = problem != self.problems.get(key)
        if key in self.problems and prefix in LAST_READABLE_STAYS:
            return changed
        if isinstance(decoded, WorkloadEndpoint) and decoded.spec.node != self.node:
            decoded = None
        if key in self._ignored:
            self._ignored[key] = [decoded]
            return changed
        return self._set(prefix, key, decoded) or changed

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
        if (
            isinstance(known, WorkloadEndpoint)
            and decoded is not None
            and with_revision(known, None) == with_revision(decoded, None)
        ):
            # The endpoint that a CNI call added, once more over the watch: no change, but now its revision is known.
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
        self._set_own(key_of(endpoint), endpoint)

    def remove_endpoint(self, endpoint: WorkloadEndpoint) -> None:
        """A local endpoint was just removed."""
        if (key := key_of(endpoint)) in self._ignored:
            self._ignored[key] = []  # older than this removal
        self._set_own(key, None)

    @contextmanager
    def ignore_watch(self, key: str, changed: Callable[[], None]) -> Iterator[None]:
        """Put off what the watch reports of an endpoint while its CNI call, which will add it itself, goes on.

        `changed` is called at the end if the watch reported something else than what was added.
        """
        self._ignored.setdefault(key, [])
        try:
            yield
        finally:
            for last in self._ignored.pop(key, []):
                if self._set(ENDPOINTS, key, last):
                    changed()

    def _set_own(self, key: str, endpoint: WorkloadEndpoint | None) -> None:
        for prefix, since in self._meanwhile.items():
            if key.startswith(prefix):
                since[key] = endpoint
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
    def own_node(self) -> Node | None:
        """This node's own resource."""
        return self.nodes.get(self.node)

    @property
    def endpoints(self) -> tuple[WorkloadEndpoint, ...]:
        """This node's own endpoints; no other node's are remembered."""
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
        """The object of this node alone (`node.NAME`)."""
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
        """Address in another node's block -> the node that uses it; empty unless the contents of blocks are watched."""
        return self._view(BLOCKS, lambda blocks: {prefix: node for block in blocks for prefix, node in block})


def _specs(resources: Collection[Any]) -> dict[str, Any]:
    return {item.metadata.name: item.spec for item in sorted(resources, key=lambda item: item.metadata.name)}


def own_blocks(owners: Mapping[Prefix, NodeName], node: NodeName) -> frozenset[Prefix]:
    """The blocks that `node` owns."""
    return frozenset(block for block, owner in owners.items() if owner == node)


def _resource(
    kind: type[Node | BGPConfiguration | BGPPeer | BGPFilter | WorkloadEndpoint],
) -> Callable[[Versioned], Any]:
    def read(value: Versioned) -> Any:
        if not resource_name(value.key, PLURALS[kind.__name__]):
            return None
        resource = decode(kind, value.value, value.revision)
        if errors := validate_bgp(resource):
            raise ValueError(errors[0])
        return resource

    return read


def _borrowed(value: Versioned) -> tuple[tuple[Prefix, NodeName], ...] | None:
    """The addresses of a block that other nodes than its owner use."""
    block = decode_block(value.key, value.value)
    found: list[tuple[Prefix, NodeName]] = []
    for ordinal, attributes in allocated(block):
        node = dict(attributes.secondary).get("node")
        if node is not None and node != block.owner:
            found.append((ip_network(address_of(block, ordinal)), NodeName(node)))
    return tuple(found) or None


def _affinity(value: Versioned) -> tuple[NodeName, Prefix, AffinityState] | None:
    found: tuple[NodeName, Prefix] | None = affinity_of_key(value.key)
    return None if found is None else (*found, decode_affinity(value.key, value.value).state)


_DECODERS: dict[str, Callable[[Versioned], Any]] = {
    POOLS: pool_record,
    NODES: _resource(Node),
    BGP_SETTINGS: _resource(BGPConfiguration),
    BGP_PEERS: _resource(BGPPeer),
    BGP_FILTERS: _resource(BGPFilter),
    ENDPOINTS: _resource(WorkloadEndpoint),
    AFFINITIES: _affinity,
    BLOCKS: _borrowed,
}
