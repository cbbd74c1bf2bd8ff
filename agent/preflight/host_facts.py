"""What preflight looks at, HostFacts, and what it says, HostFinding; with the parts of the kernel that we use.

Promises: pure; what could not be read is None or absent, and is never taken for good or bad. Does not know: how a fact
was read, what follows from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum

from agent.dataplane.kernel.dataplane_objects import ForwardChain
from agent.felix.felix_rules import FilterRemains
from agent.netlink.objects import Link, Route
from ipam.model import Pool, Prefix


class Severity(IntEnum):
    """The worst first."""

    ERROR = 1
    """Pods will not be reached, or somebody else's work is undone: exit code 1."""
    WARNING = 2
    """Works now, and will not when something usual happens."""
    NOTE = 3
    """Worth knowing."""


@dataclass(frozen=True, slots=True)
class HostFinding:
    """One thing that is not as it should be."""

    severity: Severity
    what: str
    evidence: str
    fix: str
    """A command line, to be run as root."""


class ModuleState(Enum):
    """Whether a part of the kernel is there."""

    PRESENT = "present"
    """Loaded or built in."""
    LOADABLE = "loadable"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class KernelPart:
    """A module of the kernel that we use."""

    purpose: str
    """What it is needed for."""
    symbol: str
    """A function of it, by which a kernel that has it built in and no /lib/modules is recognised."""


KERNEL_PARTS: Mapping[str, KernelPart] = {
    "ipip": KernelPart("pools with ipipMode", "ipip_tunnel_setup"),
    "vxlan": KernelPart("pools with vxlanMode", "vxlan_setup"),
    "nf_tables": KernelPart(
        "natOutgoing, the workload filter, pods behind others' forward chains", "nft_do_chain"
    ),
    "nft_masq": KernelPart("natOutgoing", "nft_masq_dump"),
    "nft_chain_nat": KernelPart("natOutgoing", "nft_nat_do_chain"),
    "veth": KernelPart("every pod", "veth_setup"),
}


@dataclass(frozen=True, slots=True)
class Process:
    """A program that runs in this network namespace."""

    pid: int
    name: str
    unit: str | None = None
    """The systemd service it belongs to."""

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid}{f', {self.unit}' if self.unit else ''})"

    @property
    def stop_command(self) -> str:
        """The command line that ends it."""
        return f"systemctl disable --now {self.unit}" if self.unit else f"kill {self.pid}"


@dataclass(frozen=True, slots=True)
class ListeningSocket:
    """A TCP socket that listens."""

    address: str
    port: int
    process: Process | None = None


@dataclass(frozen=True, slots=True)
class ExclusionFile:
    """A file by which another program leaves our interfaces alone."""

    path: str
    """Where the fix puts it."""
    content: str
    present: bool


@dataclass(frozen=True, slots=True)
class FlannelChain:
    """A chain that flannel made."""

    origin: str
    """nftables or iptables-legacy."""
    family: str
    table: str
    name: str

    def __str__(self) -> str:
        return f"{self.origin} chain {self.family} {self.table} {self.name}"


@dataclass(frozen=True, slots=True)
class FlannelRemains:
    """What flannel left, or has."""

    chains: tuple[FlannelChain, ...] = ()
    networks: tuple[Prefix, ...] = ()
    """Its range of each version of IP, as far as it wrote it down."""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """The machine, as far as it could be read."""

    links: Mapping[str, Link] = field(default_factory=dict)
    routes: tuple[Route, ...] = ()
    """All of the main tables, ours among them."""
    forward: tuple[ForwardChain, ...] = ()
    legacy_forward_drops: bool = False
    """The FORWARD chain of iptables-legacy, which nftables does not show."""
    calico: FilterRemains = field(default_factory=FilterRemains)
    """The rules that Calico's Felix left, or has."""
    flannel: FlannelRemains = field(default_factory=FlannelRemains)
    underlay: Link | None = None
    """What carries the pods' packets to other nodes."""
    sysctls: Mapping[str, str] = field(default_factory=dict)
    """Path below /proc/sys -> value."""
    modules: Mapping[str, ModuleState] = field(default_factory=dict)
    kernel: tuple[int, int] | None = None
    """Version of the running kernel."""
    processes: tuple[Process, ...] = ()
    listeners: tuple[ListeningSocket, ...] = ()
    conflists: tuple[str, ...] = ()
    """File names in /etc/cni/net.d that runtimes read."""
    networkd: tuple[ExclusionFile, ...] = ()
    network_manager: tuple[ExclusionFile, ...] = ()
    synchronised: bool | None = None
    """Whether the kernel takes its clock for synchronised (adjtimex(2))."""
    skew_seconds: float | None = None
    """How far this clock is ahead of etcd's."""
    agent_open_files: int | None = None
    """The soft limit of the running agent."""
    pools: tuple[Pool, ...] = ()
    bgp_peers: int = 0
    """Most peers that this node can have: the other nodes, and what is configured beside them."""
    bgp_passwords: bool = False
    """Whether any peering has a password."""
    pools_unknown: str | None = None
    """Why the datastore could not be asked."""
    opens_forward: bool = True
    """The setting `kernel.open_forward`."""
    wants_nexthops: bool = False
    """The setting `kernel.nexthop_objects`."""
    wants_resilient_groups: bool = False
    """The setting `kernel.resilient_groups`."""
    owned: frozenset[int] = frozenset()
    """rtm_protocol numbers of the agent's routes."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """What could not be read -> why."""

    def running(self, *names: str) -> tuple[Process, ...]:
        """The processes of these names."""
        return tuple(process for process in self.processes if process.name in names)

    def sysctl_number(self, name: str) -> int | None:
        """The value of a sysctl that holds one number; None when it could not be read."""
        text = self.sysctls.get(name, "")
        return int(text) if text.lstrip("-").isdigit() else None

    @property
    def agent_runs(self) -> bool:
        """Whether our own agent is there."""
        return bool(self.running(AGENT))


AGENT = "tortie-agent"
