"""The settings: every key with its type, its default and its meaning, and what else must hold.

Promises: a frozen value; a wrong one is one sentence that begins with its key. Passwords are never settings: only the
path of a file that holds one. The text below each key is what docs/configuration.md says.
Does not know: where settings come from (agent.configuration.loading), which part uses which.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_network,
)
from itertools import chain
from pathlib import Path

import msgspec
from msgspec import Struct

from agent.configuration.autodetection_method import parse_method
from bgp.bfd.door import LONGEST_MS, SHORTEST_MS
from ipam.selector import SelectorError
from ipam.selector import parse as parse_selector

NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
LONGEST_NAME = 253
LARGEST_LIMIT = 1 << 27
"""Of prefixes and of mebibytes: more than any machine has room for."""
LONGEST_STALE_SECONDS = (1 << 24) - 1
"""RFC 9494 section 3.1: half a year."""
MOST_BUCKETS = 0xFFFF
"""NHA_RES_GROUP_BUCKETS has sixteen bits."""
LONGEST_TIMER_SECONDS = 86_400
MOST_PATHS = 64
"""Next hops of a prefix, or paths that a peer is sent of it."""
MOST_UPLINK_TABLES = 16
LARGEST_AS = 0xFFFFFFFF
PATTERN = re.compile(r"[A-Za-z0-9_.@*?\[\]!-]{1,32}")
"""Of an interface's name, as a shell takes it."""
POD_INTERFACES = ("cali", "veth", "tap", "docker", "br-", "virbr")
"""What names begin with that lead to pods, containers or guests: never an uplink."""
SECRET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}/[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
LISTEN = re.compile(r"(\[[0-9a-fA-F:]+\]|[0-9.]+):\d{1,5}")


class ConfigError(Exception):
    """One sentence: where, which key, what is wrong."""


class NodeSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The name and the addresses of this node."""

    name: str = ""
    """Empty: the host name in lower case."""
    address: str = ""
    """`address/length` on the underlay, or on `lo` (docs/racks.md). Empty: found by `method`; `none`: IPv6 alone."""
    method: str = "route"
    """How it is found: `route` (the source of the kernel's route to the datastore; where that is here, the first
    address beside it), `first-found`, `can-reach=HOST`, `interface=REGEX,...`, `skip-interface=REGEX,...`,
    `cidr=CIDR,...`. As in Calico a REGEX may match anywhere in the name: `^eth0$` is eth0 alone. What the Node resource
    has already stays while an interface bears it."""
    address6: str = ""
    """The IPv6 address with its length. Empty: found as soon as there is an IPv6 pool, or where there is no IPv4
    address; `none`: never."""
    method6: str = "route"
    """How the IPv6 address is found, in the words of `method`."""
    machine_id: str = ""
    """What tells this machine from another one with the same name, in the Node resource. Empty: made of
    /etc/machine-id, which it does not reveal; see `tortie node takeover`."""
    labels: dict[str, str] = {}
    """Labels set on the Node resource, for nodeSelector."""


class EtcdSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The datastore."""

    endpoints: list[str] = msgspec.field(default_factory=lambda: ["http://127.0.0.1:2379"])
    """Every member: `http://host:port` or `https://host:port`; the next one takes over when one fails."""
    ca_file: str = ""
    """Who signed the members' certificates, in PEM form. This and the next two are read again when they change."""
    cert_file: str = ""
    """This client's certificate, in PEM form; goes with `key_file`."""
    key_file: str = ""
    """Its key, without a password; mode 0640 or less."""
    username: str = ""
    """For password authentication; goes with `password_file`."""
    password_file: str = ""
    """The file that holds the password, mode 0640 or less; read at each login."""


class UplinkSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """A cable to a router that is found on the wire: `[[bgp.uplink]]`, once for each kind of uplink. The session is
    between link-local addresses, as with FRR's `neighbor eth1 interface remote-as external`; no address is needed."""

    interface: str = ""
    """The interface's name, or a pattern: `eth*`, `enp[12]s0`. Interfaces of pods, bridges and tunnels never match."""
    remote_as: int | str = msgspec.field(name="as", default="external")
    """Of the router: a number, `external` (any but ours) or `internal` (ours)."""
    secret: str = ""
    """`NAME/KEY`: the file below `paths.secrets` that holds the password of the session (TCP MD5). Empty: none."""
    hold_seconds: int = 0
    """As `bgp.hold_seconds`, which holds if it is 0; else at least 3."""
    keepalive_seconds: int = 0
    """Between keepalives; 0: a third of the hold time."""
    filters: list[str] = []
    """Names of BGPFilters, as in a BGPPeer's `filters`."""
    ttl_security: bool = False
    """TTL 255 is demanded of the router (RFC 5082): it needs `ttl-security hops 1` (FRR), `ttl security on` (BIRD)."""
    port: int = 179
    """The router's TCP port."""


class BgpSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The speaker's timers, and how much peers may announce."""

    hold_seconds: int = 90
    """A peer that is silent this long is gone (RFC 4271); 0 or at least 3."""
    restart_seconds: int = 120
    """How long peers keep our routes while this agent is away (RFC 4724)."""
    long_lived_stale_seconds: int = 0
    """How long they keep them behind that, as the last choice (RFC 9494), until this agent is back; 0: not at all.
    Set it on route reflectors (86400: a day), whose routes are other nodes': all of them may be away then."""
    deferral_seconds: float = 60.0
    """How long after a start learned routes are not deleted for want of a peer."""
    mesh_ttl_security: bool = True
    """TTL 255 (RFC 5082) is demanded of each node of the mesh on this node's subnet that has this on, too: no pod can
    speak BGP in its name. Put it off everywhere before an agent that does not know it, or Calico, takes over a node."""
    mesh_maximum_prefixes: int = 10_000
    """Prefixes that another node of the node-to-node mesh may announce; 0: no limit. A node has twenty blocks, and a
    prefix for each address that it borrows."""
    maximum_prefixes: int = 250_000
    """Prefixes that the peer of a BGPPeer may announce; 0: no limit. Reflectors of 5,000 nodes announce 100,000."""
    maximum_mebibytes: int = 512
    """Memory for what all peers announce, by estimate, whatever its attributes; half of it for one peer; 0: no limit.
    The kernel's routes and what this agent makes of them need about as much again."""
    enforce_first_as: bool = False
    """What a peer of another AS announces must begin with its own AS (RFC 4271). Off, as in Calico's BIRD: a route
    server (RFC 7947) and a ToR that does not prepend announce others' paths as they are."""
    maximum_paths: int = 16
    """Next hops of a prefix that are used side by side, where paths are equally good; 1: the best path's alone. 16 is
    what Calico has (BIRD's `merge paths`)."""
    multipath_as_relax: bool = True
    """AS paths of one length are equally good, as for BIRD. Off: only by the same neighbouring AS (from iBGP: only the
    same AS path), as FRR without `bestpath as-path multipath-relax`."""
    link_bandwidth_weights: bool = False
    """Next hops share the flows as their link bandwidth communities say, if each has one; off: equally."""
    paths_sent: int = 16
    """Paths to a prefix that an internal peer (the mesh, reflectors and their clients) is sent if it takes several
    (ADD-PATH, RFC 7911), the best first: so a reflector hides none. 1: the best alone."""
    paths_sent_to: list[str] = []
    """The same for single peers, `ADDRESS=NUMBER` each; for external ones, too, which else are sent the best path
    alone."""
    local_prefixes: list[str] = []
    """Networks of this machine that are advertised to the peers while an interface here has one of their addresses:
    a docker0 bridge's subnet, such as 172.17.1.0/24. Of other nodes they are believed, so name those of all nodes."""
    uplink: list[UplinkSettings] = []
    """Routers found on the wire, each table as below; in the file alone."""
    accepted_prefixes: list[str] = []
    """Networks of which peers are believed more: what lies in them is programmed though no pool holds it (from the mesh
    of nodes), though it is on a link of this host or holds etcd's address; 0.0.0.0/0: beside the host's own default."""


class BfdSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """BFD, by the process tortie-bfd: whether the way to a peer works, within tenths of a second (RFC 5880). It is on
    for each BGPPeer with `failureDetectionMode: BFDIfDirectlyConnected`, and for what is named here. The timers are
    those of the BFDConfigurations in etcd where one selects the node and the interface, else these."""

    mesh: bool = False
    """With each node of the node-to-node mesh, directly connected or not. On both nodes, or it does not come up."""
    peers: list[str] = []
    """With these BGPPeers, too, by name: as `failureDetectionMode` would, for datastores whose tools do not know it."""
    min_tx: int = 100
    """Milliseconds between our packets, 10 to 60000; more if the peer asks for more."""
    min_rx: int = 100
    """Milliseconds between the peer's packets, 10 to 60000; more if the peer wants to send less often."""
    multiplier: int = 3
    """So many packets may be missing (1 to 255); then the peer, which is told this, takes the way for broken."""


class RouteSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Where routes come from, and the rtm_protocol numbers of those that this agent owns."""

    source: str = "bgp"
    """Of routes to pools without VXLAN: `bgp`, or `datastore`, where no BGP is; VXLAN's are the datastore's always."""

    learned: int = 12
    """Of routes from BGP."""
    blackhole: int = 12
    """Of the blackhole behind each of this node's blocks."""
    datastore: int = 80
    """Of VXLAN's routes, and of all when `source` is `datastore`."""
    tunnel: int = 3
    """Of what else stands on the tunnel devices."""
    workload: int = 3
    """Of the routes to this node's own pods."""


class KernelSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """How the kernel is programmed."""

    nexthop_objects: bool = False
    """Routes refer to nexthop objects, where the kernel has them: faster, and `ip route` prints `nhid N`."""
    resilient_groups: bool = False
    """With `nexthop_objects`: when one of several next hops comes or goes, flows of the others stay where they are,
    where the kernel has such groups (Linux 5.13)."""
    resilient_buckets: int = 128
    """Of a resilient group: flows are hashed to so many; more of them follow weights more exactly."""
    resilient_idle_seconds: int = 120
    """A bucket without packets for so long may be given to a next hop that came."""
    resilient_unbalanced_seconds: int = 0
    """After so long with too few buckets a next hop that came gets some in use, too; 0: never."""
    tunnel_offload: str = "keep"
    """Checksum offload of vxlan.calico and tunl0: `on`, `off` (some NICs and kernels spoil checksums), or `keep`."""
    open_forward: bool = True
    """Two rules for `cali*` go into every nftables chain of others' that drops forwarded packets: Docker, firewalld."""


class WorkloadSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """What workloads (pods) may send. The selectors see an endpoint's labels, and `projectcalico.org/namespace`,
    `projectcalico.org/orchestrator` and `projectcalico.org/name` (the pod's)."""

    filter: bool = True
    """The nftables table `inet tortie` lets each workload send from its own addresses alone (and from those in its
    endpoint's `allowSpoofedSourcePrefixes`), and keeps it from nodes' BGP ports, VXLAN and IPIP."""
    peers: str = ""
    """A selector: endpoints that may open BGP connections to nodes and their peers. Empty: none."""
    routers: str = ""
    """A selector: endpoints that may send from any address, because they route for others. Empty: none."""


class KubernetesSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The API server of Kubernetes. Unless `kubeconfig` or `in_cluster` is set nothing of it is asked
    (docs/kubernetes-api.md)."""

    kubeconfig: str = ""
    """The absolute path of a kubeconfig; it and the files it names are read for each question anew."""
    in_cluster: bool = False
    """The agent runs in a pod, and asks by that pod's service account."""
    node_name: str = ""
    """The name of this machine's Node of Kubernetes. Empty: `node.name`."""
    node_grace_seconds: int = 300
    """A Node of Kubernetes that is gone so long, and shows no sign of life, is given back: addresses, claims, endpoints
    and its Node resource. 0: never by itself, only by `tortie node reclaim`."""


class PathSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Directories of this agent's own."""

    run: str = "/run/tortie"
    """Sockets, the lock, and a record of each attachment; a file system in memory that outlives the agent."""
    state: str = "/var/lib/tortie"
    """What outlives a boot: the CNI journal (`releases`; in `releases/refused` what could not be replayed, each file
    with its reason beside it), whether the node is drained, which BGP peers are disabled."""
    secrets: str = "/etc/tortie/secrets"
    """Passwords of BGP peers: the file NAME/KEY below it for each secretKeyRef."""


class MetricsSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Where metrics are served, besides the socket in the run directory."""

    listen: str = ""
    """`address:port` for HTTP, such as 127.0.0.1:9991; empty: the socket alone."""


class LogSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """What is logged, and in which form."""

    level: str = "info"
    """`debug`, `info`, `warning` or `error`."""
    format: str = "human"
    """`human` or `json`: lines on standard error. Under systemd `human` means fields for journald."""


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """All settings."""

    node: NodeSettings = NodeSettings()
    etcd: EtcdSettings = EtcdSettings()
    bgp: BgpSettings = BgpSettings()
    bfd: BfdSettings = BfdSettings()
    routes: RouteSettings = RouteSettings()
    kernel: KernelSettings = KernelSettings()
    workloads: WorkloadSettings = WorkloadSettings()
    kubernetes: KubernetesSettings = KubernetesSettings()
    paths: PathSettings = PathSettings()
    log: LogSettings = LogSettings()
    metrics: MetricsSettings = MetricsSettings()

    @property
    def node_name(self) -> str:
        """The node's name in the datastore."""
        return self.node.name or socket.gethostname().lower()

    @property
    def kubernetes_node_name(self) -> str:
        """The node's name in Kubernetes."""
        return self.kubernetes.node_name or self.node_name

    @property
    def cni_socket(self) -> Path:
        """The socket of the CNI plugin."""
        return Path(self.paths.run) / "cni.sock"

    @property
    def metrics_socket(self) -> Path:
        """The socket of the metrics."""
        return Path(self.paths.run) / "metrics.sock"

    @property
    def bfd_socket(self) -> Path:
        """The socket of the BFD process."""
        return Path(self.paths.run) / "bfd.sock"

    @property
    def control_socket(self) -> Path:
        """The socket of the command line."""
        return Path(self.paths.run) / "agent.sock"


def check(config: Config) -> None:
    """Check what types alone do not say. Raises ConfigError, the key first."""
    _check_node(config.node)
    local_prefixes(config.bgp)
    accepted_prefixes(config.bgp)
    paths_sent_to(config.bgp)
    errors = _cluster_errors(config), _bgp_errors(config.bgp), _bfd_errors(config.bfd), _host_errors(config)
    for sentence in chain.from_iterable(errors):
        raise ConfigError(sentence)


def _cluster_errors(config: Config) -> Iterator[str]:
    name, etcd = config.node_name, config.etcd
    if not NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        yield f"node.name: {name!r} must be lower-case letters, digits, '-' and '.'"
    if not etcd.endpoints:
        yield "etcd.endpoints: name at least one, such as http://127.0.0.1:2379"
    if any("@" in endpoint for endpoint in etcd.endpoints):  # not repeated: what stands before it is a secret
        yield "etcd.endpoints: no user or password in an endpoint; set etcd.username and etcd.password_file"
    if bool(etcd.cert_file) != bool(etcd.key_file):
        yield "etcd.cert_file: goes with etcd.key_file; set both or neither"
    if etcd.password_file and not etcd.password_file.startswith("/"):  # not repeated: it may be the password
        yield "etcd.password_file: must be the absolute path of a file that holds the password"


def _bgp_errors(bgp: BgpSettings) -> Iterator[str]:
    if bgp.hold_seconds != 0 and bgp.hold_seconds < 3:
        yield "bgp.hold_seconds: must be 0 or at least 3 (RFC 4271)"
    for key in ("mesh_maximum_prefixes", "maximum_prefixes", "maximum_mebibytes"):
        if not 0 <= getattr(bgp, key) <= LARGEST_LIMIT:
            yield f"bgp.{key}: must be 0 (no limit) to {LARGEST_LIMIT}"
    for key, most, bits in (
        ("restart_seconds", 4095, "RFC 4724 has twelve bits"),
        ("long_lived_stale_seconds", LONGEST_STALE_SECONDS, "RFC 9494 has 24 bits"),
    ):
        if not 0 <= getattr(bgp, key) <= most:
            yield f"bgp.{key}: must be 0 to {most} ({bits} for it)"
    for key in ("maximum_paths", "paths_sent"):
        if not 1 <= getattr(bgp, key) <= MOST_PATHS:
            yield f"bgp.{key}: must be 1 (the best path alone) to {MOST_PATHS}"
    yield from _uplink_errors(bgp)


def _bfd_errors(settings: BfdSettings) -> Iterator[str]:
    for key in ("min_tx", "min_rx"):
        if not SHORTEST_MS <= getattr(settings, key) <= LONGEST_MS:
            yield f"bfd.{key}: must be {SHORTEST_MS} to {LONGEST_MS} milliseconds"
    if not 1 <= settings.multiplier <= 255:
        yield "bfd.multiplier: must be 1 to 255 (RFC 5880 has eight bits for it)"


def _uplink_errors(bgp: BgpSettings) -> Iterator[str]:
    if len(bgp.uplink) > MOST_UPLINK_TABLES:
        yield f"bgp.uplink: more than {MOST_UPLINK_TABLES} tables; use patterns"
    for number, one in enumerate(bgp.uplink, 1):
        name, remote = one.interface, one.remote_as
        known_as = (
            1 <= remote <= LARGEST_AS if isinstance(remote, int) else remote in {"external", "internal"}
        )
        for key, is_right, why in (
            (
                "interface",
                PATTERN.fullmatch(name),
                f"{name!r} is no interface's name or pattern, such as eth*",
            ),
            (
                "interface",
                name != "lo" and not name.startswith(POD_INTERFACES),
                f"{name!r} names what leads to pods, containers or this node itself",
            ),
            (
                "as",
                known_as,
                f"{remote!r} is none of external, internal and a number from 1 to {LARGEST_AS}",
            ),
            (
                "secret",
                not one.secret or SECRET.fullmatch(one.secret),
                f"{one.secret!r} must be NAME/KEY, a file below paths.secrets",
            ),
            (
                "hold_seconds",
                not one.hold_seconds or 3 <= one.hold_seconds <= 65535,
                "must be 0 (as bgp.hold_seconds) or 3 to 65535 (RFC 4271)",
            ),
            ("keepalive_seconds", 0 <= one.keepalive_seconds <= 21845, "must be 0 to 21845"),
            ("port", 1 <= one.port <= 65535, "must be 1 to 65535"),
        ):
            if not is_right:
                yield f"bgp.uplink: table {number}: {key}: {why}"


def _host_errors(config: Config) -> Iterator[str]:
    log, listen, offload = config.log, config.metrics.listen, config.kernel.tunnel_offload
    yield from _kernel_errors(config.kernel)
    yield from _kubernetes_errors(config)
    if log.level not in {"debug", "info", "warning", "error"}:
        yield f"log.level: {log.level!r} is none of debug, info, warning, error"
    if listen and not LISTEN.fullmatch(listen):
        yield f"metrics.listen: {listen!r} must be address:port, such as 127.0.0.1:9991"
    if log.format not in {"human", "json"}:
        yield f"log.format: {log.format!r} is neither human nor json"
    for key in RouteSettings.__struct_fields__:
        if key != "source" and not 3 <= getattr(config.routes, key) <= 255:
            yield f"routes.{key}: must be 3 to 255 (0 to 2 are the kernel's own)"
    if offload not in {"on", "off", "keep"}:
        yield f"kernel.tunnel_offload: {offload!r} is none of on, off, keep"
    for key in ("peers", "routers"):
        try:
            parse_selector(getattr(config.workloads, key))
        except SelectorError as error:
            yield f"workloads.{key}: {error}; write a selector such as projectcalico.org/namespace == 'routers'"
    if config.routes.source not in {"bgp", "datastore"}:
        yield f"routes.source: {config.routes.source!r} is neither bgp nor datastore"


def _kubernetes_errors(config: Config) -> Iterator[str]:
    kubernetes, name = config.kubernetes, config.kubernetes_node_name
    if kubernetes.kubeconfig and kubernetes.in_cluster:
        yield "kubernetes.kubeconfig: goes without kubernetes.in_cluster; set one of the two"
    if kubernetes.kubeconfig and not kubernetes.kubeconfig.startswith("/"):
        yield "kubernetes.kubeconfig: must be the absolute path of a file"
    if not NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        yield f"kubernetes.node_name: {name!r} must be lower-case letters, digits, '-' and '.'"
    if not 0 <= kubernetes.node_grace_seconds <= LONGEST_TIMER_SECONDS:
        yield f"kubernetes.node_grace_seconds: must be 0 (never) to {LONGEST_TIMER_SECONDS}"


def _kernel_errors(kernel: KernelSettings) -> Iterator[str]:
    if kernel.resilient_groups and not kernel.nexthop_objects:
        yield "kernel.resilient_groups: goes with kernel.nexthop_objects; set both or neither"
    if not 1 <= kernel.resilient_buckets <= MOST_BUCKETS:
        yield f"kernel.resilient_buckets: must be 1 to {MOST_BUCKETS}"
    for key in ("resilient_idle_seconds", "resilient_unbalanced_seconds"):
        if not 0 <= getattr(kernel, key) <= LONGEST_TIMER_SECONDS:
            yield f"kernel.{key}: must be 0 to {LONGEST_TIMER_SECONDS}"


def local_prefixes(settings: BgpSettings) -> tuple[IPv4Network | IPv6Network, ...]:
    """`bgp.local_prefixes` as values. Raises ConfigError."""
    return _networks("bgp.local_prefixes", settings.local_prefixes)


def accepted_prefixes(settings: BgpSettings) -> tuple[IPv4Network | IPv6Network, ...]:
    """`bgp.accepted_prefixes` as values. Raises ConfigError."""
    return _networks("bgp.accepted_prefixes", settings.accepted_prefixes)


def paths_sent_to(settings: BgpSettings) -> dict[IPv4Address | IPv6Address, int]:
    """`bgp.paths_sent_to` as values. Raises ConfigError."""
    found = {}
    for text in settings.paths_sent_to:
        address, _, number = text.partition("=")
        try:
            found[ip_address(address.strip())] = paths = int(number)
        except ValueError:
            raise ConfigError(
                f"bgp.paths_sent_to: {text!r} must be ADDRESS=NUMBER, such as 10.0.0.1=4"
            ) from None
        if not 1 <= paths <= MOST_PATHS:
            raise ConfigError(
                f"bgp.paths_sent_to: {text!r} must be 1 (the best path alone) to {MOST_PATHS} paths"
            )
    return found


def _networks(key: str, texts: list[str]) -> tuple[IPv4Network | IPv6Network, ...]:
    try:
        return tuple(map(ip_network, texts))
    except ValueError as error:
        raise ConfigError(f"{key}: {error}; name networks such as 172.17.1.0/24") from None


def _check_node(node: NodeSettings) -> None:
    for key, text in (("method", node.method), ("method6", node.method6)):
        try:
            parse_method(text)
        except ValueError as error:
            raise ConfigError(f"node.{key}: {error}") from None
    if node.address == node.address6 == "none":
        raise ConfigError("node.address: none, as node.address6 is; a node needs an address")
    if node.address not in ("", "none"):
        _check_address(
            "node.address", node.address, IPv4Interface, "an IPv4 address with a length, such as 10.0.0.5/24"
        )
    if node.address6 not in ("", "none"):
        _check_address(
            "node.address6", node.address6, IPv6Interface, "an IPv6 address with a length, such as fd00::5/64"
        )


def is_host_address(interface: IPv4Interface | IPv6Interface) -> bool:
    """Whether a machine can have this address with this length.

    Of an IPv4 subnet the last address is everybody's, but for the two of a /31 (RFC 3021) and the one of a /32; IPv6
    knows no such address.
    """
    address, network = interface.ip, interface.network
    if address.is_unspecified or address.is_multicast:
        return False
    has_broadcast = network.version == 4 and network.prefixlen < network.max_prefixlen - 1
    return not (has_broadcast and address == network.broadcast_address)


def _check_address(key: str, text: str, read: type[IPv4Interface | IPv6Interface], expected: str) -> None:
    """`172.26.5.10/20`: a host's address with the length of its subnet. Raises ConfigError."""
    try:
        interface = read(text)
    except ValueError:
        raise ConfigError(f"{key}: {text!r} is not {expected}") from None
    if "/" not in text or not is_host_address(interface):
        raise ConfigError(f"{key}: {text!r} must be a host's address with the length of its subnet")
