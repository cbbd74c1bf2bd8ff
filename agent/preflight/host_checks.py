"""What preflight says of the machine: others who would manage our devices, the kernel's parts, the clock, limits.

Promises: pure; each finding has evidence and a command line that ends it. Does not know: how facts are read.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from agent.preflight.host_facts import (
    AGENT,
    KERNEL_PARTS,
    ExclusionFile,
    HostFacts,
    HostFinding,
    ModuleState,
    Severity,
)
from ipam.model import EncapsulationMode

CONFLIST = "10-tortie.conflist"
FELIX = ("calico-node", "calico-felix", "felix")
CALICO = (*FELIX, "confd")
BIRDS = ("bird", "bird6")
NEXTHOPS_SINCE = (5, 3)
"""The first kernel with nexthop objects."""
RESILIENT_SINCE = (5, 13)
"""The first with resilient groups of them."""
MOST_SKEW_SECONDS = 2.0
"""etcd's answer is dated in whole seconds."""
FULL = 0.8
"""The share of a table from which on it counts as nearly full."""
FEWEST_CONNECTIONS, FEWEST_INSTANCES, FEWEST_WATCHES = 32768, 128, 8192
FEWEST_OPEN_FILES = 4096
UNIT_OPEN_FILES = 65536
"""LimitNOFILE of our unit."""


def _network_programs(facts: HostFacts) -> Iterator[HostFinding]:
    reload = {
        "NetworkManager": ("nmcli general reload conf", facts.network_manager),
        "systemd-networkd": ("networkctl reload && systemctl restart systemd-networkd", facts.networkd),
    }
    for name, (command, files) in reload.items():
        missing = [placed for placed in files if not placed.present]
        running = facts.running(name)
        if running and missing:
            yield HostFinding(
                Severity.ERROR,
                f"{name} would manage the agent's interfaces or routes",
                f"{running[0]} runs, and there is no {' nor '.join(placed.path for placed in missing)}",
                " && ".join((*map(_written, missing), command)),
            )
    for process in facts.running("firewalld"):
        yield HostFinding(
            Severity.WARNING,
            "firewalld decides what reaches this node: BGP and tunnels must be let in",
            f"{process} runs",
            "firewall-cmd --permanent --add-port=179/tcp --add-port=4789/udp --add-protocol=ipip"
            " && firewall-cmd --reload",
        )


def _written(placed: ExclusionFile) -> str:
    """The command that writes a file."""
    lines = [
        line for line in placed.content.splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]
    directory = placed.path.rpartition("/")[0]
    return f"mkdir -p {directory} && printf '%s\\n' {' '.join(map(shlex.quote, lines))} >{placed.path}"


def _other_agents(facts: HostFacts) -> Iterator[HostFinding]:
    for process in facts.running(*CALICO, *BIRDS):
        calico = process.name in CALICO
        yield HostFinding(
            Severity.ERROR if calico else Severity.WARNING,
            "Calico programs the same routes"
            if calico
            else "BIRD may write routes with our protocol number, and we should delete them",
            f"{process} runs",
            process.stop_command,
        )


def _left_by_calico(facts: HostFacts) -> Iterator[HostFinding]:
    """Felix's rules outlive it, and drop whatever it did not know."""
    remains = facts.calico
    if not remains.tables:
        return
    stops = [process.stop_command for process in facts.running(*FELIX)]
    dropped = remains.dropped
    yield HostFinding(
        Severity.ERROR if dropped else Severity.WARNING,
        "rules that Calico left drop the packets of new pods"
        if dropped
        else "rules that Calico left filter pods' packets by policies that nobody updates",
        str(dropped) if dropped else ", ".join(map(str, remains.tables)),
        " && ".join((*stops, "tortie node remove-calico --yes")),
    )


def _conflists(facts: HostFacts) -> Iterator[HostFinding]:
    """Runtimes take the first file by name."""
    if CONFLIST not in facts.conflists:
        yield HostFinding(
            Severity.NOTE,
            "no container runtime knows the plugin",
            f"there is no /etc/cni/net.d/{CONFLIST}",
            "tortie cni install",
        )
        return
    for name in sorted(facts.conflists):
        if name >= CONFLIST:
            return
        yield HostFinding(
            Severity.ERROR,
            "container runtimes use another CNI network",
            f"/etc/cni/net.d/{name} comes before {CONFLIST}",
            f"mv /etc/cni/net.d/{name} /etc/cni/net.d/{name}.off",
        )


def _modules(facts: HostFacts) -> Iterator[HostFinding]:
    never = EncapsulationMode.NEVER
    needed = {
        "ipip": [pool.name for pool in facts.pools if pool.ipip is not never],
        "vxlan": [pool.name for pool in facts.pools if pool.vxlan is not never],
    }
    for name, state in sorted(facts.modules.items()):
        users = needed.get(name) if facts.pools else None
        if state is ModuleState.PRESENT or users == []:
            continue
        purpose = (
            f"pool{'s' if len(users) > 1 else ''} {', '.join(users)}" if users else KERNEL_PARTS[name].purpose
        )
        if state is ModuleState.LOADABLE:
            yield HostFinding(
                Severity.WARNING, f"{name} is not loaded", f"it is needed for {purpose}", f"modprobe {name}"
            )
        else:
            yield HostFinding(
                Severity.ERROR if users or name == "veth" else Severity.WARNING,
                f"this kernel has no {name}",
                f"it is needed for {purpose}, and is neither loaded, built in nor in /lib/modules",
                "apt install linux-image-amd64 && reboot",
            )
    if facts.wants_nexthops and facts.kernel is not None and facts.kernel < NEXTHOPS_SINCE:
        yield HostFinding(
            Severity.NOTE,
            "this kernel has no nexthop objects: routes are written without",
            f"kernel.nexthop_objects is set, the kernel is {facts.kernel[0]}.{facts.kernel[1]}",
            "apt install linux-image-amd64 && reboot",
        )
    if facts.wants_resilient_groups and facts.kernel is not None and facts.kernel < RESILIENT_SINCE:
        yield HostFinding(
            Severity.NOTE,
            "this kernel has no resilient groups: flows may move when a next hop comes or goes",
            f"kernel.resilient_groups is set, the kernel is {facts.kernel[0]}.{facts.kernel[1]}",
            "apt install linux-image-amd64 && reboot",
        )


def _clock(facts: HostFacts) -> Iterator[HostFinding]:
    if facts.synchronised is False:
        yield HostFinding(
            Severity.WARNING,
            "the clock is not synchronised: certificates, stamps and cooldowns depend on it",
            "the kernel says STA_UNSYNC (adjtimex)",
            "timedatectl set-ntp true",
        )
    if facts.skew_seconds is not None and abs(facts.skew_seconds) > MOST_SKEW_SECONDS:
        yield HostFinding(
            Severity.ERROR,
            "the clock differs from etcd's",
            f"this machine is {abs(facts.skew_seconds):.0f} s {'ahead' if facts.skew_seconds > 0 else 'behind'}",
            "timedatectl set-ntp true && systemctl restart systemd-timesyncd",
        )


def _connections(facts: HostFacts) -> Iterator[HostFinding]:
    most = facts.sysctl_number("net/netfilter/nf_conntrack_max")
    if not most:
        return
    count = facts.sysctl_number("net/netfilter/nf_conntrack_count") or 0
    full = count > FULL * most
    if full or most < FEWEST_CONNECTIONS:
        yield HostFinding(
            Severity.ERROR if full else Severity.WARNING,
            "the table of tracked connections is nearly full: new ones are dropped"
            if full
            else "the table of tracked connections is small",
            f"{count} of {most}",
            f"sysctl -w net.netfilter.nf_conntrack_max={max(2 * most, 2 * FEWEST_CONNECTIONS)}",
        )


def _limits(facts: HostFacts) -> Iterator[HostFinding]:
    for name, fewest in (
        ("fs/inotify/max_user_instances", FEWEST_INSTANCES),
        ("fs/inotify/max_user_watches", FEWEST_WATCHES),
        ("fs/nr_open", UNIT_OPEN_FILES),
    ):
        value = facts.sysctl_number(name)
        if value is not None and value < fewest:
            dotted = name.replace("/", ".")
            yield HostFinding(
                Severity.WARNING,
                f"{dotted} is low: programs fail with 'too many open files'",
                f"{dotted} = {value}, at least {fewest} is needed",
                f"sysctl -w {dotted}={fewest}",
            )
    if facts.agent_runs and facts.agent_open_files is not None and facts.agent_open_files < FEWEST_OPEN_FILES:
        yield HostFinding(
            Severity.WARNING,
            "the agent may open few files",
            f"its limit is {facts.agent_open_files}, at least {FEWEST_OPEN_FILES} is needed",
            f"prlimit --pid {facts.running(AGENT)[0].pid} --nofile={UNIT_OPEN_FILES}",
        )


HOST_CHECKS = (
    _network_programs,
    _other_agents,
    _left_by_calico,
    _conflists,
    _modules,
    _clock,
    _connections,
    _limits,
)
