"""The watched state of the cluster: the part of the datastore that matters to this node, decoded once.

Promises: only the present value counts, so repeated, skipped and late events are harmless. A value of any kind that
cannot be read is in `unreadable`, and counts as what it was before; one that was never read is `lost`: it counts as
absent, and nothing should be taken down for that. Only a key that is gone is a removal. Written by the syncer; the CNI
server adds and removes its own endpoints so that they need not come back over the watch first. A property answers the
same object until something of its kind changes, so asking costs nothing and comparing little.
Does not know: etcd, watches, the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace as dataclass_replace
from ipaddress import ip_network
from typing import Any, TypeVar

from agent.datastore.datastore_lock import (
    CLUSTER_INFORMATIONS,
    LOCK_KEY,
    DatastoreLock,
    read_lock,
    unknown_lock,
)
from agent.datastore.recovery import LivingEndpoints, Loss, Nobody
from agent.datastore.resources.bgp_types import (
    BFDConfigurationSpec,
    BGPConfigurationSpec,
    BGPFilterSpec,
    BGPPeerSpec,
)
from agent.datastore.resources.resource_types import (
    PLURALS,
    BFDConfiguration,
    BGPConfiguration,
    BGPFilter,
    BGPPeer,
    Node,
    Resource,
    WorkloadEndpoint,
    with_revision,
)
from agent.datastore.resources.validation import NODE_PREFIX
from agent.datastore.storage_layout import KIND_PREFIXES, key_of, pool_record, read_valid
from agent.datastore.unreadable_values import CURE, UnreadableValues
from ipam.block import address_of, allocated
from ipam.codec import decode_affinity, decode_block, decode_handle
from ipam.etcd.store import Versioned, revision_of
from ipam.failures import Unreadable
from ipam.keys import (
    BLOCKS,
    HANDLES,
    affinity_key,
    affinity_of_key,
    escaped,
    handle_key,
    is_fence,
    resource_key,
    resource_name,
    tunnel_handles,
)
from ipam.model import AffinityState, NodeName, PoolRecord, Prefix
from ipam.stored_json import read_stored

POOLS = KIND_PREFIXES["IPPool"]
NODES = KIND_PREFIXES["Node"]
BGP_SETTINGS = KIND_PREFIXES["BGPConfiguration"]
BGP_PEERS = KIND_PREFIXES["BGPPeer"]
BGP_FILTERS = KIND_PREFIXES["BGPFilter"]
BFD_TIMERS = KIND_PREFIXES["BFDConfiguration"]
ENDPOINTS = KIND_PREFIXES["WorkloadEndpoint"]
AFFINITIES = KIND_PREFIXES["BlockAffinity"]
HOLDS = {
    POOLS: "its last readable value holds for routes and masquerading, and no new address is taken from it",
    NODES: "its last readable value holds",
    BGP_SETTINGS: "its last readable value holds",
    BGP_PEERS: "its last readable value holds",
    BGP_FILTERS: "its last readable value holds",
    BFD_TIMERS: "its last readable value holds",
    ENDPOINTS: "its last readable value holds: the pod keeps its routes",
    AFFINITIES: "its last readable value holds: the block keeps its route",
    BLOCKS: "its last readable value holds",
    CLUSTER_INFORMATIONS: "its last readable value holds: whether the datastore is locked",
    HANDLES: "what it holds is not released",
}
"""Prefix -> what holds instead of an unreadable value below it that was read before."""
CURES = {
    ENDPOINTS: "recreate the pod, or write it anew",
    AFFINITIES: """write {"state":"confirmed"} there if the node has the block, else delete it""",
    HANDLES: "delete it, then: tortie ipam check --fix",
}
"""Prefix -> what to do about one that no command writes."""
LOST = "this agent never read another value of it: it counts as absent, and nothing is taken down for that"
_View = TypeVar("_View")


def endpoint_prefix(namespace: str, node: NodeName) -> str:
    """The prefix of a node's own endpoints of one namespace: a watch there has no events of other nodes' pods."""
    return resource_key(PLURALS["WorkloadEndpoint"], _endpoint_start(node), namespace)


def _endpoint_start(node: NodeName) -> str:
    """How the names of a node's endpoints begin, in keys."""
    return escaped(f"{node.replace('-', '--')}-")


def _prefix_of(key: str) -> str | None:
    return next((prefix for prefix in _DECODERS if key.startswith(prefix)), None)


class StateCache:
    """The decoded values by etcd key, and views of them by kind."""

    def __init__(self, node: NodeName, living: LivingEndpoints | None = None) -> None:
        """`living` is what this machine itself knows of its pods: they are facts, whatever the datastore lacks."""
        self.node = node
        self.living = living or Nobody()
        self.lost: dict[str, Loss] = {}
        """Living pods' endpoints that the datastore lacks, or has another container's in their place, by key."""
        self.missing: set[str] = set()
        """Keys that the last listing lacked without a word of their deletion; their values stay until `drop`."""
        self._sections: dict[str, dict[str, Any]] = {prefix: {} for prefix in _DECODERS}
        """Prefix -> etcd key -> value."""
        self._views: dict[str, Any] = {}
        """Prefix -> what its property answers: made anew only after a change below that prefix."""
        self.unreadable = UnreadableValues()
        self._lost: dict[str, set[str]] = {prefix: set() for prefix in _DECODERS}
        """Prefix -> keys of unreadable values of which no readable one is known."""
        self._tunnel_handles = frozenset(map(handle_key, tunnel_handles(node)))
        self._meanwhile: dict[str, dict[str, WorkloadEndpoint | None]] = {}
        """Prefix that is being listed -> endpoints added or removed here since; at most one entry per pod."""
        self._ignored: dict[str, list[WorkloadEndpoint | None]] = {}
        """Key of an endpoint that a CNI call is making -> its last value by the watch, if there was one."""

    def begin_listing(self, prefix: str) -> None:
        """A complete list is asked for: an endpoint added or removed from now on may not be in it."""
        self._meanwhile[prefix] = {}

    def replace(
        self,
        prefix: str,
        values: Mapping[str, Versioned],
        decoded: Mapping[str, object] | None = None,
        *,
        keep: bool = False,
    ) -> None:
        """Everything below `prefix` is now this, but for endpoints added or removed here while it was listed.

        `decoded` has what `decode` made of the values, if the caller asked it before. With `keep` what is not listed is
        noted as `missing`, and stays.
        """
        unreadable = self.unreadable.keys()
        known = {key for section in self._sections.values() for key in section} | unreadable
        for key in known - values.keys():
            if key.startswith(prefix) and keep and key not in unreadable:
                self.missing.add(key)
                self._views.pop(prefix, None)
            elif key.startswith(prefix):
                self.apply(key, None)
        for key, value in values.items():
            found = self.decode(value) if decoded is None else decoded[key]
            self._take(key, found, Loss(value.revision))
        for key, endpoint in self._meanwhile.pop(prefix, {}).items():
            self._set(ENDPOINTS, key, endpoint)

    def seed(self) -> None:
        """Take in the endpoints of the pods that live already, before the datastore is read."""
        for endpoint in self.living.endpoints:
            key = key_of(endpoint)
            self.lost[key] = Loss(0)
            self._set(ENDPOINTS, key, endpoint)

    def forget_lost(self) -> None:
        """The lost endpoints whose pods are gone by now are facts no more."""
        for key in tuple(self.lost):
            if self.living.endpoint(key) is None:
                del self.lost[key]
                self._set(ENDPOINTS, key, None)

    def is_stored(self, endpoint: WorkloadEndpoint) -> bool:
        """Whether the datastore has this endpoint, as far as its watch has said."""
        return endpoint.metadata.resource_version is not None and key_of(endpoint) not in self.lost

    def drop(self, keys: Collection[str]) -> bool:
        """What of these is still missing is gone; whether that is a change."""
        changes = [self.apply(key, None) for key in self.missing & {*keys}]
        return any(changes)

    def apply(self, key: str, value: Versioned | None, deleted_at: int | None = None) -> bool:
        """One key has this value now, or (None) is gone, by a deletion at a revision; whether that is a change."""
        decoded = self.decode(value) if value is not None else None
        return self._take(key, decoded, Loss(revision_of(value), deleted_at))

    def decode(self, value: Versioned) -> object:
        """What a value says: for `replace`, and of no meaning elsewhere. An Unreadable is answered, not raised."""
        prefix = _prefix_of(value.key)
        try:
            return read_stored(value, _DECODERS[prefix]) if prefix is not None else None
        except Unreadable as error:
            return error

    def _take(self, key: str, decoded: object, loss: Loss) -> bool:
        self.missing.discard(key)
        prefix = _prefix_of(key)
        if prefix is None or (prefix == HANDLES and key not in self._tunnel_handles):
            return False
        if isinstance(decoded, Unreadable):
            return self._keep_last(prefix, key, decoded)
        changed = self.unreadable.clear(key)
        if changed:
            self._lost[prefix].discard(key)
            self._views.pop(prefix, None)
        if isinstance(decoded, WorkloadEndpoint) and decoded.spec.node != self.node:
            decoded = None
        if key in self._ignored:
            self._ignored[key] = [decoded if isinstance(decoded, WorkloadEndpoint) else None]
            return changed
        if prefix == ENDPOINTS:
            stored = decoded if isinstance(decoded, WorkloadEndpoint) else None
            decoded = self._of_living(key, stored, loss)
        return self._set(prefix, key, decoded) or changed

    def _keep_last(self, prefix: str, key: str, error: Unreadable) -> bool:
        """What is stored cannot be read. Whether that is news."""
        if prefix == ENDPOINTS and not self._may_be_own(key):
            return False
        is_known = key in self._sections[prefix]
        if not is_known:
            self._lost[prefix].add(key)
        self._views.pop(prefix, None)
        loss = HOLDS[prefix] if is_known else LOST
        return self.unreadable.note(key, error, loss, CURES.get(prefix, CURE))

    def _may_be_own(self, key: str) -> bool:
        """Whether an endpoint is this node's by its key: of others' this node keeps nothing."""
        return key.rpartition("/")[2].startswith(_endpoint_start(self.node))

    @property
    def has_lost(self) -> bool:
        """Whether something is stored that cannot be read and was never read: what it explains is not known."""
        return any(self._lost.values())

    @property
    def has_lost_pools(self) -> bool:
        """Whether a pool is among that."""
        return bool(self._lost[POOLS])

    @property
    def lost_claims(self) -> Mapping[Prefix, NodeName]:
        """Claims that cannot be read and were never read, by their keys; what they say of the block is not known."""
        found = (affinity_of_key(key) for key in self._lost[AFFINITIES])
        return {claim[1]: claim[0] for claim in found if claim is not None}

    @property
    def endpoint_namespaces(self) -> frozenset[str]:
        """The namespaces of this node's endpoints, readable or not."""
        keys = (*self._sections[ENDPOINTS], *self._lost[ENDPOINTS])
        names = (resource_name(key, PLURALS["WorkloadEndpoint"]) for key in keys)
        return frozenset(name[0] for name in names if name is not None and name[0] is not None)

    def _of_living(self, key: str, stored: WorkloadEndpoint | None, loss: Loss) -> WorkloadEndpoint | None:
        """The endpoint that is a fact here, where the datastore has `stored`."""
        mine = self.living.endpoint(key)
        if mine is not None and (stored is None or stored.spec.container_id != mine.spec.container_id):
            self.lost[key] = loss
            return mine
        self.lost.pop(key, None)
        if mine is None and stored is not None and any(map(self.living.has, stored.addresses)):
            return None  # an older backup's: another pod that lives here has its address now
        return stored

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
        if prefix == BLOCKS and known == decoded:
            return False  # a pod came or went, and nothing borrowed did
        if decoded is not None:
            section[key] = decoded
        else:
            del section[key]
        self._views.pop(prefix, None)
        return True

    def add_endpoint(self, endpoint: WorkloadEndpoint) -> None:
        """A local endpoint was just written."""
        self.lost.pop(key_of(endpoint), None)
        self._set_own(key_of(endpoint), endpoint)

    def remove_endpoint(self, endpoint: WorkloadEndpoint) -> None:
        """A local endpoint was just removed."""
        self.lost.pop(key := key_of(endpoint), None)
        if key in self._ignored:
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
        """All pools that were ever read, by name as Calico orders them."""
        return self._view(POOLS, self._pools)

    def _pools(self, records: Collection[PoolRecord]) -> tuple[PoolRecord, ...]:
        marked = (
            dataclass_replace(record, unreadable=why) if (why := self.unreadable.why(record.key)) else record
            for record in records
        )
        return tuple(sorted(marked, key=lambda record: record.pool.name))

    @property
    def usable_pools(self) -> tuple[PoolRecord, ...]:
        """The pools that may give addresses: not those that a listing lacked."""
        return self.pools if not self.missing else tuple(r for r in self.pools if r.key not in self.missing)

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
    def bfd_configurations(self) -> Mapping[str, BFDConfigurationSpec]:
        """All readable timers of BFD by name, in the order of names."""
        return self._view(BFD_TIMERS, _specs)

    @property
    def tunnel_handles(self) -> Mapping[str, int]:
        """The records of this node's tunnel addresses, by key, with the revisions of their last writes."""
        return self._view(HANDLES, lambda _: dict(self._sections[HANDLES]))

    @property
    def lock(self) -> DatastoreLock:
        """Whether the datastore is locked; as it was last readable, and locked if it never was."""
        if LOCK_KEY in self._lost[CLUSTER_INFORMATIONS]:
            return unknown_lock(LOCK_KEY, 0, self.unreadable.why(LOCK_KEY))
        found: DatastoreLock | None = self._sections[CLUSTER_INFORMATIONS].get(LOCK_KEY)
        return found or DatastoreLock()

    @property
    def block_owners(self) -> Mapping[Prefix, NodeName]:
        """Who owns which block: confirmed claims only.

        A claim that an older datastore lacks goes before the one that it has on the same block: it is the later one.
        """

        def owners(claims: Collection[tuple[NodeName, Prefix, AffinityState]]) -> dict[Prefix, NodeName]:
            if self.missing:
                claims = sorted(claims, key=lambda claim: affinity_key(*claim[:2]) in self.missing)
            return {block: node for node, block, state in claims if state is AffinityState.CONFIRMED}

        return self._view(AFFINITIES, owners)

    @property
    def borrowed(self) -> Mapping[Prefix, NodeName]:
        """Address in another node's block -> the node that uses it; empty unless the contents of blocks are watched."""
        return self._view(BLOCKS, lambda blocks: {prefix: node for block in blocks for prefix, node in block})


def _specs(resources: Collection[Any]) -> dict[str, Any]:
    return {item.metadata.name: item.spec for item in sorted(resources, key=lambda item: item.metadata.name)}


def own_blocks(owners: Mapping[Prefix, NodeName], node: NodeName) -> frozenset[Prefix]:
    """The blocks that `node` owns."""
    return frozenset(block for block, owner in owners.items() if owner == node)


def _resource(kind: type[Resource]) -> Callable[[Versioned], Any]:
    return lambda value: read_valid(kind, value)


def _borrowed(value: Versioned) -> tuple[tuple[Prefix, NodeName], ...] | None:
    """The addresses of a block that other nodes than its owner use."""
    block = decode_block(value)
    found: list[tuple[Prefix, NodeName]] = []
    for ordinal, attributes in allocated(block):
        node = dict(attributes.secondary).get("node")
        if node is not None and node != block.owner:
            found.append((ip_network(address_of(block, ordinal)), NodeName(node)))
    return tuple(found) or None


def _handle_revision(value: Versioned) -> int:
    decode_handle(value)
    return value.revision


def _affinity(value: Versioned) -> tuple[NodeName, Prefix, AffinityState] | None:
    if is_fence(value.key):
        return None
    claim = decode_affinity(value)
    return claim.node, claim.block, claim.state


_DECODERS: dict[str, Callable[[Versioned], Any]] = {
    POOLS: pool_record,
    NODES: _resource(Node),
    BGP_SETTINGS: _resource(BGPConfiguration),
    BGP_PEERS: _resource(BGPPeer),
    BGP_FILTERS: _resource(BGPFilter),
    BFD_TIMERS: _resource(BFDConfiguration),
    ENDPOINTS: _resource(WorkloadEndpoint),
    AFFINITIES: _affinity,
    BLOCKS: _borrowed,
    CLUSTER_INFORMATIONS: read_lock,
    HANDLES: _handle_revision,
}
