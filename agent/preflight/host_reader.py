"""Reads what preflight looks at: files below a root, the kernel of this network namespace, etcd's clock.

Promises: changes nothing; what cannot be read is named with its reason and stops nothing else; every question has a
bound. Does not know: what is good or bad.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from ipaddress import IPv4Address, ip_network
from pathlib import Path
from ssl import SSLContext
from urllib.parse import urlsplit

from agent.clock import SystemClock
from agent.configuration.config import Config
from agent.dataplane.kernel.protocol import Kernel
from agent.felix.kernel_rules import read_chain_names, read_filter_remains
from agent.netlink.kernel_errors import KernelError
from agent.preflight.host_facts import (
    AGENT,
    KERNEL_PARTS,
    ExclusionFile,
    FlannelChain,
    FlannelRemains,
    HostFacts,
    ModuleState,
)
from agent.preflight.network_checks import BGP_PORT
from agent.preflight.proc_scan import file_text, open_files, scan_listeners, scan_processes
from agent.service import layout
from agent.service.host_snapshot import matching_sysctls
from agent.service.install import unit_file
from ipam.model import Prefix

ASK_SECONDS = 2.0
OUTSIDE = IPv4Address("198.51.100.1")
"""TEST-NET-2 (RFC 5737): asking the kernel for the way there sends nothing and finds the default route."""
SYSCTLS = (
    "net/ipv4/ip_forward",
    "net/ipv6/conf/all/forwarding",
    "net/ipv4/conf/*/rp_filter",
    "net/core/optmem_max",
    "net/netfilter/nf_conntrack_max",
    "net/netfilter/nf_conntrack_count",
    "fs/inotify/max_user_instances",
    "fs/inotify/max_user_watches",
    "fs/nr_open",
)
CONFLIST_ENDS = (".conf", ".conflist", ".json")
NETWORKD = ("network/10-tortie.network", "networkd.conf.d/tortie.conf")
NETWORK_MANAGER = "NetworkManager/tortie.conf"
FLANNEL_MARK, FLANNEL_CHAIN, FLANNEL_TABLE = "FLANNEL-", "FLANNEL-", "flannel-"
"""In iptables its chains, in nftables its tables begin so."""
STA_UNSYNC = 0x0040
"""linux/timex.h."""


async def read_host(kernel: Kernel, config: Config, root: Path = Path("/")) -> HostFacts:
    """Everything but what only the datastore knows: the pools, and its clock."""
    proc = root / "proc"
    marks, unread = config.routes, dict[str, str]()
    facts = await _kernel_facts(kernel, unread)
    running = scan_processes(proc)
    agent = next((process.pid for process in running if process.name == AGENT), None)
    return replace(
        facts,
        legacy_forward_drops=legacy_forward_drops(proc),
        sysctls=matching_sysctls(proc / "sys", SYSCTLS),
        modules=modules(root),
        kernel=kernel_release(proc),
        processes=running,
        listeners=scan_listeners(proc, BGP_PORT, running),
        conflists=conflists(root / "etc/cni/net.d"),
        flannel=FlannelRemains(await _flannel_chains(unread), flannel_networks(root)),
        networkd=tuple(_exclusion_file(root, source) for source in NETWORKD),
        network_manager=(_exclusion_file(root, NETWORK_MANAGER),),
        synchronised=synchronised(),
        agent_open_files=open_files(proc, agent) if agent is not None else None,
        opens_forward=config.kernel.open_forward,
        wants_nexthops=config.kernel.nexthop_objects,
        wants_resilient_groups=config.kernel.resilient_groups,
        owned=frozenset({marks.learned, marks.blackhole, marks.datastore}),
        unread=unread,
    )


async def _kernel_facts(kernel: Kernel, unread: dict[str, str]) -> HostFacts:
    """What the kernel itself answers; what it does not goes into `unread`."""
    facts = HostFacts()
    try:
        facts = replace(facts, links=await kernel.links())
        facts = replace(facts, routes=tuple((await kernel.routes()).values()))
        facts = replace(facts, forward=tuple((await kernel.forward_chains()).values()))
    except KernelError as error:
        unread["the kernel's network"] = str(error)
    try:
        facts = replace(facts, calico=await read_filter_remains())
        unread.update(
            (f"what Calico left, {number}", why) for number, why in enumerate(facts.calico.unread, 1)
        )
    except (KernelError, OSError) as error:
        unread["what Calico left"] = str(error)
    try:
        link = facts.links.get((await kernel.path_to(OUTSIDE)).device)
    except KernelError as error:
        unread["the way to other nodes"] = str(error)
        return facts
    return replace(facts, underlay=link)


async def _flannel_chains(unread: dict[str, str]) -> tuple[FlannelChain, ...]:
    try:
        chains = await read_chain_names(FLANNEL_MARK)
    except (KernelError, OSError) as error:
        unread["what flannel left"] = str(error)
        return ()
    return tuple(
        FlannelChain(*one)
        for one in chains
        if one[3].startswith(FLANNEL_CHAIN) or one[2].startswith(FLANNEL_TABLE)
    )


def flannel_networks(root: Path) -> tuple[Prefix, ...]:
    """The ranges that flannel was given, of /run/flannel/subnet.env."""
    words = dict(line.partition("=")[::2] for line in file_text(root / "run/flannel/subnet.env").splitlines())
    found = []
    for name in ("FLANNEL_NETWORK", "FLANNEL_IPV6_NETWORK"):
        for text in words.get(name, "").split(","):
            with suppress(ValueError):
                found.append(ip_network(text.strip(), strict=False))
    return tuple(found)


def legacy_forward_drops(proc: Path) -> bool:
    """Whether iptables-legacy, where its table is in use, drops forwarded packets."""
    if "filter" not in file_text(proc / "thread-self/net/ip_tables_names").splitlines():
        return False
    program = shutil.which("iptables-legacy")
    if program is None:
        return False
    words = [program, "-S", "FORWARD"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=ASK_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.stdout.startswith("-P FORWARD DROP") and "cali" not in done.stdout


def kernel_release(proc: Path) -> tuple[int, int] | None:
    """The kernel's version."""
    found = re.match(r"(\d+)\.(\d+)", "".join(file_text(proc / "sys/kernel/osrelease").splitlines()[:1]))
    return (int(found[1]), int(found[2])) if found else None


def modules(root: Path) -> dict[str, ModuleState]:
    """Whether each part of the kernel that we use is there."""
    folder = root / "lib/modules" / "".join(file_text(root / "proc/sys/kernel/osrelease").splitlines()[:1])
    loaded = {line.split()[0] for line in file_text(root / "proc/modules").splitlines() if line}
    built_in = _module_names(file_text(folder / "modules.builtin").splitlines())
    loadable = _module_names(
        line.partition(":")[0] for line in file_text(folder / "modules.dep").splitlines()
    )
    found = {}
    for name in KERNEL_PARTS:
        if name in loaded or name in built_in or (root / "sys/module" / name).is_dir():
            found[name] = ModuleState.PRESENT
        else:
            found[name] = ModuleState.LOADABLE if name in loadable else ModuleState.MISSING
    missing = {
        KERNEL_PARTS[name].symbol: name for name, state in found.items() if state is ModuleState.MISSING
    }
    return found | dict.fromkeys(_with_symbols(root / "proc/kallsyms", missing), ModuleState.PRESENT)


def _module_names(paths: Iterable[str]) -> frozenset[str]:
    return frozenset(Path(path).name.partition(".ko")[0].replace("-", "_") for path in paths)


def _with_symbols(table: Path, wanted: Mapping[str, str]) -> list[str]:
    found = []
    if wanted:
        with suppress(OSError, IndexError), table.open() as lines:
            for line in lines:
                symbol = line.split()[2]
                if symbol in wanted:
                    found.append(wanted[symbol])
    return found


def conflists(directory: Path) -> tuple[str, ...]:
    """The file names that runtimes read."""
    try:
        return tuple(sorted(path.name for path in directory.iterdir() if path.suffix in CONFLIST_ENDS))
    except OSError:
        return ()


def _exclusion_file(root: Path, source: str) -> ExclusionFile:
    """A file of systemd/, and whether it is there: where we place it, or where the Debian package does."""
    (target,) = (placed.target for placed in layout.FILES if placed.source == source)
    places = (root / top / target.relative_to("etc") for top in ("etc", "usr/lib", "lib"))
    present = any(place.is_file() for place in places)
    return ExclusionFile(f"/{target}", unit_file(source).decode(), present)


class _Timex(ctypes.Structure):
    """struct timex of linux/timex.h; what follows `status` is of no interest."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_long * 32),
    )


def synchronised() -> bool | None:
    """Whether the kernel's clock is disciplined by somebody; None when that may not be asked."""
    answer = _Timex()  # modes 0: nothing is set
    if ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(answer)) < 0:
        return None
    return not answer.status & STA_UNSYNC


def with_skew(facts: HostFacts, endpoints: Sequence[str], tls: SSLContext | None) -> HostFacts:
    """The facts with how far this clock is ahead of that of the first member that answers with its time."""
    answers = (_seconds_ahead(endpoint, tls) for endpoint in endpoints)
    return replace(facts, skew_seconds=next((found for found in answers if found is not None), None))


def _seconds_ahead(endpoint: str, tls: SSLContext | None) -> float | None:
    """This clock less the date of a member's HTTP answer: whole seconds, so the middle of its second is taken."""
    parts = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}")
    host, port = parts.hostname or "localhost", parts.port or 2379
    connection: HTTPConnection = (
        HTTPSConnection(host, port, timeout=ASK_SECONDS, context=tls)
        if parts.scheme == "https"
        else HTTPConnection(host, port, timeout=ASK_SECONDS)
    )
    try:
        connection.request("GET", "/version")
        stamp = connection.getresponse().headers.get("Date")
        etcd_time = parsedate_to_datetime(stamp or "").astimezone(UTC).replace(microsecond=500_000)
        return (SystemClock().wall() - etcd_time).total_seconds()
    except (OSError, HTTPException, ValueError):
        return None
    finally:
        connection.close()
