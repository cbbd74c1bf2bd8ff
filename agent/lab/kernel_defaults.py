"""The sysctls of a new network namespace as the kernel has them by itself, not as this machine has them.

A namespace starts with the machine's own net.ipv4.conf.all and .default (net.core.devconf_inherit_init_net says so, for
IPv6 too on request): what a router or a container engine set there would be in every node of a lab. Promises: both
families' conf.all, conf.default and conf.lo are the kernel's. Does not know: sysctls that are the machine's for every
namespace (kernel.*, vm.*, fs.*, most of net.core.*), and net.ipv4.tcp_*, whose few inherited ones are buffer sizes.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from agent.netlink.namespaces import entered

PROC_SYS_NET = Path("/proc/sys/net")
PARTS = ("all", "default", "lo")
IPV4 = {
    "accept_redirects": 1,
    "arp_evict_nocarrier": 1,
    "igmpv2_unsolicited_report_interval": 10000,
    "igmpv3_unsolicited_report_interval": 1000,
    "secure_redirects": 1,
    "send_redirects": 1,
    "shared_media": 1,
}
"""net/ipv4/devinet.c; what is not named is 0."""
IPV4_MORE = {
    "all": {},
    "default": {"accept_source_route": 1},
    "lo": {"accept_source_route": 1, "disable_policy": 1, "disable_xfrm": 1},
}
IPV6 = {
    "accept_dad": 1,
    "accept_ra": 1,
    "accept_redirects": 1,
    "autoconf": 1,
    "disable_ipv6": 0,
    "forwarding": 0,
    "hop_limit": 64,
    "proxy_ndp": 0,
    "use_tempaddr": 0,
}
"""net/ipv6/addrconf.c; these decide how a node is reached."""


def reset_sysctls(namespace: Path) -> None:
    """In a namespace that nobody uses yet, before its interfaces come: they copy conf.default."""
    with entered(namespace):
        for part in PARTS:
            for path in (PROC_SYS_NET / "ipv4/conf" / part).iterdir():
                wanted = IPV4_MORE[part].get(path.name, IPV4.get(path.name, 0))
                if path.read_text().strip() != str(wanted):
                    _write(path, wanted)
            folder = PROC_SYS_NET / "ipv6/conf" / part
            for name, wanted in IPV6.items():
                if (folder / name).exists() and not (part == "lo" and name in ("accept_dad", "use_tempaddr")):
                    _write(folder / name, wanted)


def _write(path: Path, value: int) -> None:
    with suppress(PermissionError):  # mc_forwarding is only shown
        path.write_text(str(value))
