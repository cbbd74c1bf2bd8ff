"""The agent's series: their names, what they mean, and how they follow from what the agent knows of itself.

A series is a line of one table: _AGENT and _KERNEL have those of one sample, _KERNEL_KIND, _POOL and _PEER those with a
sample for each kind of kernel object, pool or peer, and _OTHERS those whose labels are others.

Promises: pure; every name stands once in CATALOGUE with its meaning, and nothing else is ever exposed. Units are base
units, counters end in `_total` (the conventions of Prometheus). Does not know: the text form, HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from agent.dataplane.report import Report
from agent.metrics.pool_gauges import PoolReadings
from agent.trouble import TroubleKind
from bgp.bfd.door import SessionReport
from bgp.peer_status import PeerStatus
from bgp.session.fsm import State
from ipam.address_text import text_of


class MetricType(Enum):
    """What Prometheus calls a metric's type."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class EtcdReadings:
    """The state of the connection to the datastore, and counts of what happened to it."""

    revision: int
    certificates: Mapping[str, datetime]
    """TLS file -> until when it is valid."""
    rotations: int
    """How often changed TLS files were loaded."""
    watch_restarts: int
    """How often a watch was established again."""
    went_back: int
    """How often its revision was lower than before."""


@dataclass(frozen=True, slots=True)
class Readings:
    """What the agent knows of itself at one moment."""

    version: str
    started: datetime
    ready: bool
    in_sync: bool
    """The datastore was read as a whole."""
    datastore_up: bool
    """Its watches are established."""
    converged: bool
    drained: bool
    pods: int
    own_blocks: int
    pools: tuple[PoolReadings, ...]
    nodes: int
    troubles: Mapping[str, int]
    """Kind of trouble -> how many are listed."""
    peers: tuple[PeerStatus, ...]
    kernel: Report
    etcd: EtcdReadings
    loop_lag_seconds: float
    """The longest delay of the event loop since the last reading."""
    part_failures: Mapping[str, int]
    """Part of the agent -> how often it has failed and was run again."""
    log_lines_lost: int
    """Lines of the log that nobody took."""
    filter_drops: Mapping[str, int] = field(default_factory=dict)
    """Reason -> packets that the workload filter dropped."""
    bfd: Mapping[str, SessionReport] = field(default_factory=dict)
    """Peer -> the BFD session beside its BGP session."""
    bfd_packets: Mapping[str, int] = field(default_factory=dict)
    """What became of packets in the BFD process -> how many."""
    not_enforced: Mapping[str, int] = field(default_factory=dict)
    """What is not done by design -> how many resources ask for it."""
    reclaimed: Mapping[str, int] = field(default_factory=dict)
    """What this agent gave back of nodes that Kubernetes deleted -> how many."""


@dataclass(frozen=True, slots=True)
class Definition:
    """One series name: its type, its meaning, the names of its labels."""

    name: str
    type: MetricType
    meaning: str
    labels: tuple[str, ...] = ()


Samples = Mapping[tuple[str, ...], float]
"""Label values -> value."""


def _unix(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


_AGENT: Mapping[str, tuple[str, Callable[[Readings], float]]] = {
    "start_time_seconds": ("When the agent started, Unix time.", lambda r: r.started.timestamp()),
    "ready": ("Whether a pod can be served: the kernel was adopted and the datastore read.", lambda r: r.ready),
    "in_sync": ("Whether the datastore was read as a whole at least once.", lambda r: r.in_sync),
    "datastore_up": ("Whether the datastore answers and its watches are established.", lambda r: r.datastore_up),
    "drained": ("Whether this node has left its BGP peers on purpose.", lambda r: r.drained),
    "pods": ("Pod interfaces of this node.", lambda r: r.pods),
    "nodes": ("Nodes of the cluster.", lambda r: r.nodes),
    "ipam_own_blocks": ("Blocks that this node owns.", lambda r: r.own_blocks),
    "event_loop_lag_seconds": ("The longest delay of the event loop since the last scrape.",
        lambda r: r.loop_lag_seconds),
    "log_lines_lost_total": ("Lines of the log that standard error did not take.", lambda r: r.log_lines_lost),
    "bgp_converged": ("Whether all peers have advertised everything (End-of-RIB), or had time to.",
        lambda r: r.converged),
    "etcd_revision": ("The newest revision of the datastore that was seen.", lambda r: r.etcd.revision),
    "etcd_certificate_rotations_total": ("How often changed TLS files were taken.", lambda r: r.etcd.rotations),
    "etcd_watch_restarts_total": ("How often a watch had to be made anew.", lambda r: r.etcd.watch_restarts),
    "etcd_went_back_total": ("How often the datastore was older than before: a restored backup.",
        lambda r: r.etcd.went_back),
}  # fmt: skip
"""Series without labels."""
_KERNEL: Mapping[str, tuple[str, Callable[[Report], float]]] = {
    "kernel_passes_total": ("Passes over the kernel.", lambda k: k.passes),
    "kernel_overruns_total": ("How often notifications were lost and everything was read again.", lambda k: k.overruns),
    "kernel_pass_duration_seconds": ("How long the last pass over the kernel took.", lambda k: k.last_pass_seconds),
    "kernel_last_pass_time_seconds": ("When the last pass over the kernel ended, Unix time.",
        lambda k: _unix(k.last_pass) or 0.0),
    "kernel_refused": ("Desired objects that the kernel refuses at present.", lambda k: len(k.refused)),
    "kernel_conflicts": ("Destinations where somebody else's route stands in our place.", lambda k: len(k.conflicts)),
    "kernel_waiting": ("Desired routes whose device is missing or down.", lambda k: len(k.waiting)),
    "kernel_removals_held": ("Kinds of objects of which a mass removal is held back.", lambda k: len(k.held)),
    "kernel_features_missing": ("Features that are set and that this kernel cannot do.", lambda k: len(k.not_in_force)),
}  # fmt: skip
"""Series without labels, of the last report about the kernel."""
_KERNEL_KIND: Mapping[str, tuple[str, Callable[[Report], Mapping[str, int]]]] = {
    "kernel_objects": ("Objects of ours in the kernel.", lambda k: k.objects),
    "kernel_written_total": ("Objects created or replaced.", lambda k: k.written),
    "kernel_removed_total": ("Objects removed.", lambda k: k.removed),
    "kernel_drift_repaired_total": (
        "Objects of ours that somebody else removed or altered.",
        lambda k: k.drift,
    ),
}
"""Label kind."""
_POOL: Mapping[str, tuple[str, Callable[[PoolReadings], float]]] = {
    "ipam_allocations_in_use": ("Addresses of the pool that this node's pods and tunnels have.", lambda p: p.in_use),
    "ipam_blocks": ("Blocks of the pool that nodes have claimed, in the whole cluster.", lambda p: p.blocks),
    "ipam_own_addresses": ("Addresses of the pool in this node's blocks.", lambda p: p.own_addresses),
    "ipam_pool_blocks": ("Blocks that the pool can be cut into.", lambda p: p.most_blocks),
    "ipam_pool_size": ("Addresses of the pool.", lambda p: p.size),
}  # fmt: skip
"""Label pool."""
_PEER: Mapping[str, tuple[str, Callable[[PeerStatus], float | None]]] = {
    "bgp_peer_up": ("Whether the session is established.", lambda p: p.state is State.ESTABLISHED),
    "bgp_peer_state_since_seconds": ("When that state was entered, Unix time.", lambda p: _unix(p.since)),
    "bgp_peer_prefixes_received": ("Prefixes that the peer advertises.", lambda p: p.received),
    "bgp_peer_prefixes_announced": ("Prefixes that are advertised to the peer.", lambda p: p.announced),
    "bgp_peer_restarting": ("Whether its stale paths are retained while it restarts (RFC 4724).",
        lambda p: p.restarting),
    "bgp_peer_refused_connections_total": ("Further connections from its address beside a session that lives.",
        lambda p: p.refused),
    "bgp_peer_sessions_total": ("Sessions established with the peer.", lambda p: p.sessions),
    "bgp_peer_tolerated_total": ("Messages of the peer with mistakes that cost no session (RFC 7606).",
        lambda p: p.tolerated),
    "bgp_peer_ignored_total": ("Messages of the peer with something of a family that was not agreed.",
        lambda p: p.ignored),
    "bgp_peer_held_bytes": ("Memory that what the peer announced needs, by estimate.", lambda p: p.held_octets),
    "bgp_peer_failures_total": ("Sessions with the peer that an error of this program reset.",
        lambda p: p.failures),
}  # fmt: skip
"""Label peer; a value of None makes no sample."""
_OTHERS: Mapping[str, tuple[str, tuple[str, ...], Callable[[Readings], Samples]]] = {
    "build_info": ("Always 1; the version is a label.", ("version",), lambda r: {(r.version,): 1}),
    "troubles": (
        "Troubles that `tortie node status` shows, by kind; 0 for a kind of which there is none.",
        ("kind",),
        lambda r: {(kind.value,): r.troubles.get(kind.value, 0) for kind in TroubleKind},
    ),
    "part_failures_total": (
        "How often a part of the agent failed and was run again.",
        ("part",),
        lambda r: {(part,): count for part, count in r.part_failures.items()},
    ),
    "bgp_peer_state": (
        "1 for the state that the session is in (RFC 4271 section 8.2.2).",
        ("peer", "state"),
        lambda r: {
            (text_of(peer.address), one.value): peer.state is one
            for peer in r.peers
            for one in State
            if one is not State.OPEN_HELD  # never a peer's furthest
        },
    ),
    "bgp_peer_messages_total": (
        "Messages of the present session, by direction.",
        ("peer", "direction", "kind"),
        lambda r: {
            (text_of(peer.address), direction, kind): count
            for peer in r.peers
            for direction, counts in (("sent", peer.messages_sent), ("received", peer.messages_received))
            for kind, count in counts
        },
    ),
    "bfd_session_up": (
        "Whether the BFD session with the peer is up.",
        ("peer",),
        lambda r: {(peer,): one.state == "Up" for peer, one in r.bfd.items()},
    ),
    "bfd_session_failures_total": (
        "How often the BFD session with the peer failed, since the BFD process made it.",
        ("peer",),
        lambda r: {(peer,): one.failures for peer, one in r.bfd.items()},
    ),
    "bfd_detection_seconds": (
        "The peer's silence after which its BFD session fails, as agreed; 0 before.",
        ("peer",),
        lambda r: {(peer,): one.detection_ms / 1000 for peer, one in r.bfd.items()},
    ),
    "bfd_packets_total": (
        "BFD packets by what became of them: sent, received, or dropped by the check that they failed.",
        ("what",),
        lambda r: {(what,): count for what, count in r.bfd_packets.items()},
    ),
    "filter_dropped_packets_total": (
        "Packets that the workload filter dropped, by reason.",
        ("reason",),
        lambda r: {(reason,): count for reason, count in r.filter_drops.items()},
    ),
    "not_enforced": (
        "Resources, and fields set in one, that ask for what this agent does not do (docs/limits.md).",
        ("what",),
        lambda r: {(what,): count for what, count in r.not_enforced.items()},
    ),
    "reclaimed_total": (
        "What this agent, as the leader, gave back of nodes that were deleted in Kubernetes.",
        ("what",),
        lambda r: {(what,): count for what, count in r.reclaimed.items()},
    ),
    "etcd_certificate_expiry_time_seconds": (
        "Until when a TLS file's certificate is valid, Unix time.",
        ("file",),
        lambda r: {(file,): moment.timestamp() for file, moment in r.etcd.certificates.items()},
    ),
}
"""Name -> meaning, labels, samples."""
CNI_SECONDS = Definition(
    "tortie_cni_request_duration_seconds",
    MetricType.HISTOGRAM,
    "How long the agent took to answer the CNI plugin; code 0 is success.",
    ("verb", "code"),
)


def _definition(name: str, meaning: str, labels: tuple[str, ...]) -> Definition:
    kind = MetricType.COUNTER if name.endswith("_total") else MetricType.GAUGE
    return Definition(f"tortie_{name}", kind, meaning, labels)


_LABELS = (((), _AGENT), ((), _KERNEL), (("kind",), _KERNEL_KIND), (("pool",), _POOL), (("peer",), _PEER))
CATALOGUE: Mapping[str, Definition] = {
    one.name: one
    for one in (
        *(_definition(name, entry[0], labels) for labels, table in _LABELS for name, entry in table.items()),
        *(_definition(name, meaning, labels) for name, (meaning, labels, _) in _OTHERS.items()),
        CNI_SECONDS,
    )
}


def series(readings: Readings) -> Iterator[tuple[Definition, Samples]]:
    """Every series but the histogram, which is counted where things happen, with its present samples."""

    def one(name: str, samples: Samples) -> tuple[Definition, Samples]:
        return CATALOGUE[f"tortie_{name}"], samples

    for name, (_, value) in _AGENT.items():
        yield one(name, {(): value(readings)})
    for name, (_, of_kernel) in _KERNEL.items():
        yield one(name, {(): of_kernel(readings.kernel)})
    for name, (_, counts) in _KERNEL_KIND.items():
        yield one(name, {(kind,): count for kind, count in counts(readings.kernel).items()})
    for name, (_, of_pool) in _POOL.items():
        yield one(name, {(pool.name,): of_pool(pool) for pool in readings.pools})
    peers = [(text_of(peer.address), peer) for peer in readings.peers]
    for name, (_, of_peer) in _PEER.items():
        values = {(address,): of_peer(peer) for address, peer in peers}
        yield one(name, {labels: value for labels, value in values.items() if value is not None})
    for name, (_, _, samples) in _OTHERS.items():
        yield one(name, samples(readings))
