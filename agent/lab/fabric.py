"""Makes and removes network namespaces, bridges and cables; one of the adapters of pyroute2.

Promises: touches only namespaces whose name it is given; the caller's own is never changed, and loading ipip leaves no
tunl0 in it. Making what exists is an error, removing what is gone is not.
Does not know: plans, agents, etcd.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface
from pathlib import Path

from pyroute2 import IPRoute, NetlinkError, netns

from agent.lab import kernel_defaults

InterfaceAddress = IPv4Interface | IPv6Interface
IFA_F_NODAD = 0x02
NAMESPACES = Path("/run/netns")
FALLBACK_TUNNELS = Path("/proc/sys/net/core/fb_tunnels_only_for_init_net")
"""net.core.fb_tunnels_only_for_init_net: with 2 a module makes its fallback device in no namespace."""

NUD_PERMANENT = 0x80


def make_namespace(name: str) -> None:
    """A new, empty network namespace with lo up, its sysctls as on a machine that has just booted."""
    netns.create(name)
    kernel_defaults.reset_sysctls(NAMESPACES / name)
    with IPRoute(netns=name) as there:
        there.link("set", index=1, state="up")


def namespaces(prefix: str) -> list[str]:
    """All named namespaces that start with `prefix`."""
    return sorted(path.name for path in NAMESPACES.glob(f"{prefix}*")) if NAMESPACES.exists() else []


def remove_namespace(name: str) -> None:
    """Unname a namespace; it and its interfaces vanish with its last process."""
    with suppress(FileNotFoundError):
        netns.remove(name)
    with suppress(FileNotFoundError):  # a name whose mount is gone already, after a crash
        (NAMESPACES / name).unlink()


def processes_in(name: str) -> list[int]:
    """The processes that live in a namespace."""
    found = []
    with suppress(OSError):
        inode = os.stat(NAMESPACES / name).st_ino
        for directory in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it ended meanwhile
                if os.stat(directory / "ns/net").st_ino == inode:
                    found.append(int(directory.name))
    return found


def end_processes(name: str) -> None:
    """Kill whatever lives in a namespace that this program made."""
    for pid in processes_in(name):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def bridge(namespace: str, name: str, addresses: Iterable[InterfaceAddress]) -> None:
    """A bridge that is up and bears the segment's gateway addresses."""
    with IPRoute(netns=namespace) as there:
        there.link("add", ifname=name, kind="bridge")
        index = there.link_lookup(ifname=name)[0]
        _address(there, index, addresses)
        there.link("set", index=index, state="up")


def _address(there: IPRoute, index: int, addresses: Iterable[InterfaceAddress]) -> None:
    for one in addresses:
        # Nobody else can have it: IPv6 need not look for a duplicate for a second.
        more = {"flags": IFA_F_NODAD} if one.version == 6 else {}
        there.addr("add", index=index, address=str(one.ip), prefixlen=one.network.prefixlen, **more)


def cable(
    fabric: str,
    bridge_name: str,
    port: str,
    node: str,
    addresses: Iterable[InterfaceAddress],
    gateways: Iterable[str],
) -> None:
    """eth0 of a node, plugged into a bridge of the fabric, with addresses and default routes."""
    with IPRoute(netns=fabric) as there:
        there.link("add", ifname=port, kind="veth", peer={"ifname": "eth0", "net_ns_fd": node})
        index = there.link_lookup(ifname=port)[0]
        there.link("set", index=index, master=there.link_lookup(ifname=bridge_name)[0], state="up")
    with IPRoute(netns=node) as there:
        index = there.link_lookup(ifname="eth0")[0]
        there.link("set", index=index, state="up")
        _address(there, index, addresses)
        for gateway in gateways:
            family = socket.AF_INET6 if ":" in gateway else socket.AF_INET
            there.route("add", dst="default", gateway=gateway, oif=index, family=family)


def add_permanent_neighbours(nodes: Mapping[str, IPv4Address]) -> None:
    """Give nodes of one segment (namespace -> address) permanent neighbour entries for each other.

    The kernel's bound on neighbour entries that it made by itself (gc_thresh3, 1,024) holds for all namespaces
    together, so 32 nodes that all speak to each other reach it; permanent entries do not count.
    """
    macs, indexes = {}, {}
    for namespace in nodes:
        with IPRoute(netns=namespace) as there:
            (link,) = there.link("get", ifname="eth0")
            indexes[namespace], macs[namespace] = link["index"], link.get_attr("IFLA_ADDRESS")
    for namespace in nodes:
        with IPRoute(netns=namespace) as there:
            for other, address in nodes.items():
                if other != namespace:
                    there.neigh(
                        "replace",
                        dst=str(address),
                        lladdr=macs[other],
                        ifindex=indexes[namespace],
                        state=NUD_PERMANENT,
                    )


def has_ipip() -> bool:
    """Whether this kernel can make IPIP tunnels, found by trying in a namespace of its own.

    The kernel loads the module when asked for the first device. The module would then put a tunl0 into every namespace,
    the machine's own included: that sysctl is set to 2 for that moment and set back.
    """
    loaded = Path("/sys/module/ipip").exists()
    before = None
    if not loaded and FALLBACK_TUNNELS.exists():
        before = FALLBACK_TUNNELS.read_text()
        FALLBACK_TUNNELS.write_text("2")
    name = f"tortie-try-{os.getpid()}"
    try:
        netns.create(name)
        with IPRoute(netns=name) as there:
            there.link("add", ifname="try0", kind="ipip", ipip_local="127.0.0.1")
            return True
    except NetlinkError as error:
        if error.code in (errno.EOPNOTSUPP, errno.ENOENT, errno.ENODEV):
            return False
        if error.code == errno.EEXIST:
            return True
        raise
    finally:
        remove_namespace(name)
        if before is not None:
            FALLBACK_TUNNELS.write_text(before)
