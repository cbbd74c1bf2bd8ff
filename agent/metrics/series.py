"""The agent's series: their names, what they mean, and how they follow from what the agent knows of itself.

Promises: pure; every name stands once in CATALOGUE with its meaning, and nothing else is ever exposed. Units are base
units, counters end in `_total` (the conventions of Prometheus).
Does not know: the text form, HTTP.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from agent.dataplane.report import Report
from agent.metrics.pool_gauges import PoolReadings
from bgp.peer_status import PeerStatus
from bgp.session.fsm import State
from ipam.address_text import text_of

_Labels = tuple[str, ...]


class MetricType(Enum):
    """What Prometheus calls a metric's type."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Definition:
    """One series name: its type, its meaning, the names of its labels."""

    name: str
    type: MetricType
    meaning: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Series:
    """The present samples of one name: label values -> value."""

    definition: Definition
    samples: Mapping[tuple[str, ...], float]


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
    troubles: int
    peers: tuple[PeerStatus, ...]
    kernel: Report
    etcd: EtcdReadings
    loop_lag_seconds: float
    """The longest delay of the event loop since the last reading."""


_GAUGES = {
    "build_info": ("Always 1; the version is a label.", ("version",)),
    "start_time_seconds": ("When the agent started, Unix time.", ()),
    "ready": ("Whether a pod can be served: the kernel was adopted and the datastore read.", ()),
    "in_sync": ("Whether the datastore was read as a whole at least once.", ()),
    "datastore_up": ("Whether the watches of the datastore are established.", ()),
    "drained": ("Whether this node has left its BGP peers on purpose.", ()),
    "troubles": ("Sentences that `tortie node status` shows as troubles.", ()),
    "pods": ("Pod interfaces of this node.", ()),
    "nodes": ("Nodes of the cluster.", ()),
    "ipam_own_blocks": ("Blocks that this node owns.", ()),
    "ipam_allocations_in_use": ("Addresses of the pool that this node's pods and tunnels have.", ("pool",)),
    "ipam_blocks": ("Blocks of the pool that nodes have claimed, in the whole cluster.", ("pool",)),
    "ipam_own_addresses": ("Addresses of the pool in this node's blocks.", ("pool",)),
    "ipam_pool_blocks": ("Blocks that the pool can be cut into.", ("pool",)),
    "ipam_pool_size": ("Addresses of the pool.", ("pool",)),
    "event_loop_lag_seconds": ("The longest delay of the event loop since the last scrape.", ()),
    "bgp_converged": ("Whether all peers have advertised everything (End-of-RIB), or had time to.", ()),
    "bgp_peer_up": ("Whether the session is established.", ("peer",)),
    "bgp_peer_state": ("1 for the state that the session is in (RFC 4271 section 8.2.2).", ("peer", "state")),
    "bgp_peer_state_since_seconds": ("When that state was entered, Unix time.", ("peer",)),
    "bgp_peer_prefixes_received": ("Prefixes that the peer advertises.", ("peer",)),
    "bgp_peer_prefixes_announced": ("Prefixes that are advertised to the peer.", ("peer",)),
    "bgp_peer_restarting": ("Whether its stale paths are retained while it restarts (RFC 4724).", ("peer",)),
    "etcd_certificate_expiry_time_seconds": ("Until when a TLS file's certificate is valid, Unix time.", ("file",)),
    "etcd_revision": ("The newest revision of the datastore that was seen.", ()),
    "kernel_objects": ("Objects of ours in the kernel.", ("kind",)),
    "kernel_pass_duration_seconds": ("How long the last pass over the kernel took.", ()),
    "kernel_last_pass_time_seconds": ("When the last pass over the kernel ended, Unix time.", ()),
    "kernel_refused": ("Desired objects that the kernel refuses at present.", ()),
    "kernel_conflicts": ("Destinations where somebody else's route stands in our place.", ()),
    "kernel_waiting": ("Desired routes whose device is missing or down.", ()),
    "kernel_removals_held": ("Kinds of objects of which a mass removal is held back.", ()),
    "kernel_features_missing": ("Features that are set and that this kernel cannot do.", ()),
}  # fmt: skip
_COUNTERS = {
    "bgp_peer_sessions_total": ("Sessions established with the peer.", ("peer",)),
    "bgp_peer_messages_total": ("Messages of the present session, by direction.", ("peer", "direction", "kind")),
    "etcd_certificate_rotations_total": ("How often changed TLS files were taken.", ()),
    "etcd_watch_restarts_total": ("How often a watch had to be made anew.", ()),
    "etcd_went_back_total": ("How often the datastore was older than before: a restored backup.", ()),
    "kernel_passes_total": ("Passes over the kernel.", ()),
    "kernel_written_total": ("Objects created or replaced.", ("kind",)),
    "kernel_removed_total": ("Objects removed.", ("kind",)),
    "kernel_drift_repaired_total": ("Objects of ours that somebody else removed or altered.", ("kind",)),
    "kernel_overruns_total": ("How often notifications were lost and everything was read again.", ()),
}  # fmt: skip
CNI_SECONDS = Definition(
    "tortie_cni_request_duration_seconds",
    MetricType.HISTOGRAM,
    "How long the agent took to answer the CNI plugin; code 0 is success.",
    ("verb", "code"),
)
CATALOGUE: Mapping[str, Definition] = {
    **{
        f"tortie_{name}": Definition(f"tortie_{name}", kind, meaning, labels)
        for kind, table in ((MetricType.GAUGE, _GAUGES), (MetricType.COUNTER, _COUNTERS))
        for name, (meaning, labels) in table.items()
    },
    CNI_SECONDS.name: CNI_SECONDS,
}


def series(readings: Readings) -> Iterator[Series]:
    """Everything but the histograms, which are counted where things happen."""
    for name, value in _plain(readings).items():
        yield _one(name, {(): float(value)})
    yield _one("build_info", {(readings.version,): 1.0})
    yield from _of_pools(readings.pools)
    yield from _of_peers(readings.peers)
    yield from _of_kernel(readings.kernel)
    yield from _of_etcd(readings.etcd)


def _one(name: str, samples: Mapping[_Labels, float]) -> Series:
    return Series(CATALOGUE[f"tortie_{name}"], samples)


def _plain(readings: Readings) -> dict[str, float]:
    return {
        "start_time_seconds": readings.started.timestamp(),
        "ready": readings.ready,
        "in_sync": readings.in_sync,
        "datastore_up": readings.datastore_up,
        "drained": readings.drained,
        "troubles": readings.troubles,
        "pods": readings.pods,
        "nodes": readings.nodes,
        "ipam_own_blocks": readings.own_blocks,
        "event_loop_lag_seconds": readings.loop_lag_seconds,
        "bgp_converged": readings.converged,
    }


def _of_pools(pools: Iterable[PoolReadings]) -> Iterator[Series]:
    each = tuple(pools)
    yield _one("ipam_allocations_in_use", {(pool.name,): float(pool.in_use) for pool in each})
    yield _one("ipam_blocks", {(pool.name,): float(pool.blocks) for pool in each})
    yield _one("ipam_own_addresses", {(pool.name,): float(pool.own_addresses) for pool in each})
    yield _one("ipam_pool_blocks", {(pool.name,): float(pool.most_blocks) for pool in each})
    yield _one("ipam_pool_size", {(pool.name,): float(pool.size) for pool in each})


def _of_peers(peers: Iterable[PeerStatus]) -> Iterator[Series]:
    known = {text_of(peer.address): peer for peer in peers}
    each = known.items()
    yield _one("bgp_peer_up", {(name,): peer.state is State.ESTABLISHED for name, peer in each})
    states: dict[_Labels, float] = {
        (name, one.value): float(peer.state is one) for name, peer in each for one in State
    }
    yield _one("bgp_peer_state", states)
    since: dict[_Labels, float] = {
        (name,): peer.since.timestamp() for name, peer in each if peer.since is not None
    }
    yield _one("bgp_peer_state_since_seconds", since)
    yield _one("bgp_peer_prefixes_received", {(name,): float(peer.received) for name, peer in each})
    yield _one("bgp_peer_prefixes_announced", {(name,): float(peer.announced) for name, peer in each})
    yield _one("bgp_peer_restarting", {(name,): float(peer.restarting) for name, peer in each})
    yield _one("bgp_peer_sessions_total", {(name,): float(peer.sessions) for name, peer in each})
    messages: dict[_Labels, float] = {
        (name, direction, kind): float(count)
        for name, peer in each
        for direction, counts in (("sent", peer.messages_sent), ("received", peer.messages_received))
        for kind, count in counts
    }
    yield _one("bgp_peer_messages_total", messages)


def _of_etcd(etcd: EtcdReadings) -> Iterator[Series]:
    until: dict[_Labels, float] = {(file,): moment.timestamp() for file, moment in etcd.certificates.items()}
    yield _one("etcd_certificate_expiry_time_seconds", until)
    for name, value in (
        ("etcd_revision", etcd.revision),
        ("etcd_certificate_rotations_total", etcd.rotations),
        ("etcd_watch_restarts_total", etcd.watch_restarts),
        ("etcd_went_back_total", etcd.went_back),
    ):
        yield _one(name, {(): float(value)})


def _of_kernel(report: Report) -> Iterator[Series]:
    for name, counts in (
        ("kernel_objects", report.objects),
        ("kernel_written_total", report.written),
        ("kernel_removed_total", report.removed),
        ("kernel_drift_repaired_total", report.drift),
    ):
        yield _one(name, {(kind,): float(count) for kind, count in counts.items()})
    last = report.last_pass.timestamp() if report.last_pass is not None else 0.0
    for name, value in (
        ("kernel_passes_total", report.passes),
        ("kernel_overruns_total", report.overruns),
        ("kernel_pass_duration_seconds", report.last_pass_seconds),
        ("kernel_last_pass_time_seconds", last),
        ("kernel_refused", len(report.refused)),
        ("kernel_conflicts", len(report.conflicts)),
        ("kernel_waiting", len(report.waiting)),
        ("kernel_removals_held", len(report.held)),
        ("kernel_features_missing", len(report.not_in_force)),
    ):
        yield _one(name, {(): float(value)})
