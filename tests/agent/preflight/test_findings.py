"""Every finding both ways: the facts that bring it, and the nearest facts that do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from agent.dataplane.kernel.dataplane_objects import ForwardChain
from agent.felix.felix_rules import Action, FilterChain, FilterRemains, FilterRule, FilterTable
from agent.netlink.objects import Link, Route, RouteKey
from agent.preflight.findings import findings
from agent.preflight.host_facts import (
    AGENT,
    ExclusionFile,
    FlannelChain,
    FlannelRemains,
    HostFacts,
    ListeningSocket,
    ModuleState,
    Process,
    Severity,
)
from ipam.model import EncapsulationMode, Pool

POOL = Pool("p", ip_network("192.168.0.0/16"), 26)
VXLAN = Pool("v", ip_network("10.7.0.0/16"), 26, vxlan=EncapsulationMode.ALWAYS)
IPIP = Pool("i", ip_network("10.8.0.0/16"), 26, ipip=EncapsulationMode.CROSS_SUBNET)
SIX = Pool("six", ip_network("fd00:1::/48"), 122)
QUIET = HostFacts(conflists=("10-tortie.conflist",), owned=frozenset({12, 80}))
RUNNING = (Process(7, AGENT),)


def link(name: str, address: str = "", mtu: int = 1500, kind: str | None = None) -> dict[str, Link]:
    ip, _, length = address.partition("/")
    addresses = ((ip_address(ip), int(length)),) if ip else ()
    return {name: Link(5, name, kind, mtu, up=True, addresses=addresses)}


def route(prefix: str, device: str = "eth0", protocol: int = 4) -> tuple[Route, ...]:
    return (Route(RouteKey(ip_network(prefix)), device=device, protocol=protocol),)


def listens(name: str, unit: str | None = None) -> tuple[ListeningSocket, ...]:
    return (ListeningSocket("0.0.0.0", 179, Process(9, name, unit)),)


DROPS = ForwardChain("ip", "filter", "FORWARD", drops=True)
CALICO_DROPS = FilterTable(
    "nftables",
    "inet",
    "calico",
    {"f": FilterChain("f", (FilterRule(Action.DROP, incoming="cali*"),), "forward")},
    1,
)
FLANNEL_NAT = FlannelChain("nftables", "ip", "nat", "FLANNEL-POSTRTG")
FLANNEL_TABLE = FlannelChain("nftables", "ip", "flannel-ipv4", "postrtg")
OPENED = replace(DROPS, opened=True)
NETWORKD = Process(3, "systemd-networkd", "systemd-networkd.service")
FILE = ExclusionFile("/etc/systemd/network/10-tortie.network", "# why\n[Match]\nName=cali*\n", present=False)
STRICT = {"net/ipv4/conf/all/rp_filter": "0", "net/ipv4/conf/vxlan.calico/rp_filter": "1"}

CASES: dict[str, tuple[dict[str, Any], dict[str, Any], Severity, str, str]] = {
    "an address in a pool": (
        {"pools": (POOL,), "links": link("eth0", "192.168.7.2/24")},
        {"pools": (POOL,), "links": link("eth0", "192.169.7.2/24")},
        Severity.ERROR,
        "eth0 has 192.168.7.2/24, the pool is 192.168.0.0/16",
        "tortie delete ippool p",
    ),
    "a bridge of another CNI in a pool": (
        {"pools": (POOL,), "links": link("cni0", "192.168.7.1/24")},
        {"pools": (POOL,), "links": link("cali123", "192.168.7.1/32")},
        Severity.ERROR,
        "cni0 (another CNI plugin's bridge) has 192.168.7.1/24",
        "ip link del cni0",
    ),
    "a bridge of flannel's beside the pools": (
        {"pools": (POOL,), "links": link("cni0", "10.244.0.1/24")},
        {"pools": (POOL,), "links": link("cni0", "10.244.0.1/24"), "processes": ()} | {"links": link("eth0")},
        Severity.NOTE,
        "cni0",
        "ip link del cni0",
    ),
    "flannel runs": (
        {"processes": (Process(4, "flanneld"),), "links": link("flannel.1", "10.244.0.0/32")},
        {},
        Severity.WARNING,
        "flanneld (pid 4) runs",
        "kill 4",
    ),
    "flannel masquerades in a pool": (
        {"pools": (POOL,), "flannel": FlannelRemains((FLANNEL_NAT,), (ip_network("192.168.0.0/16"),))},
        {"pools": (POOL,)},
        Severity.WARNING,
        "nftables chain ip nat FLANNEL-POSTRTG; pool p overlaps its range",
        "iptables-nft -t nat -F FLANNEL-POSTRTG && iptables-nft -t nat -X FLANNEL-POSTRTG",
    ),
    "flannel's rules for another range": (
        {"pools": (POOL,), "flannel": FlannelRemains((FLANNEL_TABLE,), (ip_network("10.244.0.0/16"),))},
        {"pools": (POOL,)},
        Severity.NOTE,
        "nftables chain ip flannel-ipv4 postrtg",
        "nft delete table ip flannel-ipv4",
    ),
    "docker0 around a pool": (
        {"pools": (VXLAN,), "links": link("docker0", "10.0.0.1/8")},
        {"pools": (POOL,), "links": link("docker0", "10.0.0.1/8")},
        Severity.ERROR,
        "docker0 (Docker's bridge) has 10.0.0.1/8",
        "tortie delete ippool v",
    ),
    "an IPv6 address in a pool": (
        {"pools": (SIX,), "links": link("eth0", "fd00:1::7/64")},
        {"pools": (SIX,), "links": link("eth0", "fd00:2::7/64")},
        Severity.ERROR,
        "fd00:1::7/64",
        "tortie delete ippool six",
    ),
    "a foreign route in a pool": (
        {"pools": (POOL,), "routes": route("192.168.9.0/24")},
        {"pools": (POOL,), "routes": route("192.168.9.0/24", protocol=12)},
        Severity.ERROR,
        "192.168.9.0/24 dev eth0 proto static (protocol static) lies in 192.168.0.0/16",
        "ip route del 192.168.9.0/24 dev eth0",
    ),
    "a foreign route around a pool": (
        {"pools": (POOL,), "routes": route("192.0.0.0/8")},
        {"pools": (POOL,), "routes": route("0.0.0.0/0")},
        Severity.WARNING,
        "covers 192.168.0.0/16",
        "ip route del 192.0.0.0/8 dev eth0",
    ),
    "a chain that drops": (
        {"forward": (DROPS,), "processes": (*RUNNING, Process(8, "dockerd"))},
        {"forward": (OPENED,), "processes": RUNNING},
        Severity.ERROR,
        "nftables chain ip filter FORWARD drops what no rule of it accepts; dockerd (pid 8) sets it so",
        """nft 'insert rule ip filter FORWARD iifname "cali*" accept comment "tortie"; """
        """insert rule ip filter FORWARD oifname "cali*" accept comment "tortie"'""",
    ),
    "a chain that drops, before the agent runs": (
        {"forward": (DROPS,)},
        {"forward": (replace(DROPS, drops=False),)},
        Severity.NOTE,
        "ip filter FORWARD",
        "systemctl start tortie-agent",
    ),
    "a chain that drops, which the agent may not open": (
        {"forward": (DROPS,), "opens_forward": False},
        {"forward": (), "opens_forward": False},
        Severity.WARNING,
        "ip filter FORWARD",
        """accept'""",
    ),
    "rules of Calico's that drop new pods": (
        {"calico": FilterRemains((CALICO_DROPS,))},
        {"calico": FilterRemains()},
        Severity.ERROR,
        "the rule `iifname \"cali*\" drop` of chain f in nftables table inet calico",
        "tortie node remove-calico --yes",
    ),
    "rules of Calico's that filter": (
        {"calico": FilterRemains((replace(CALICO_DROPS, chains={}),))},
        {"calico": FilterRemains()},
        Severity.WARNING,
        "nftables table inet calico",
        "tortie node remove-calico --yes",
    ),
    "iptables-legacy drops": (
        {"legacy_forward_drops": True},
        {},
        Severity.ERROR,
        "-P FORWARD DROP",
        "iptables-legacy -I FORWARD -i cali+ -j ACCEPT",
    ),
    "no forwarding": (
        {"sysctls": {"net/ipv4/ip_forward": "0"}, "processes": RUNNING},
        {"sysctls": {"net/ipv4/ip_forward": "1"}, "processes": RUNNING},
        Severity.ERROR,
        "net.ipv4.ip_forward = 0",
        "sysctl -w net.ipv4.ip_forward=1",
    ),
    "no forwarding before the agent": (
        {"sysctls": {"net/ipv4/ip_forward": "0"}},
        {"sysctls": {"net/ipv4/ip_forward": "0"}, "pools": (SIX,)},
        Severity.WARNING,
        "net.ipv4.ip_forward = 0",
        "sysctl -w net.ipv4.ip_forward=1",
    ),
    "no forwarding of IPv6": (
        {"sysctls": {"net/ipv6/conf/all/forwarding": "0"}, "pools": (SIX,)},
        {"sysctls": {"net/ipv6/conf/all/forwarding": "0"}, "pools": (POOL,)},
        Severity.WARNING,
        "net.ipv6.conf.all.forwarding = 0",
        "sysctl -w net.ipv6.conf.all.forwarding=1",
    ),
    "strict rp_filter on a tunnel": (
        {"links": link("vxlan.calico"), "sysctls": STRICT},
        {
            "links": link("vxlan.calico"),
            "sysctls": {**STRICT, "net/ipv4/conf/all/rp_filter": "2"},
        },
        Severity.WARNING,
        "net.ipv4.conf.vxlan.calico.rp_filter = 1, net.ipv4.conf.all.rp_filter = 0",
        "sysctl -w net.ipv4.conf.vxlan.calico.rp_filter=2",
    ),
    "strict rp_filter for tunnels to come": (
        {"sysctls": {"net/ipv4/conf/all/rp_filter": "1", "net/ipv4/conf/default/rp_filter": "0"}},
        {"sysctls": {"net/ipv4/conf/all/rp_filter": "0", "net/ipv4/conf/default/rp_filter": "2"}},
        Severity.WARNING,
        "net.ipv4.conf.all.rp_filter = 1",
        "sysctl -w net.ipv4.conf.default.rp_filter=2",
    ),
    "a pod's MTU above the way's": (
        {"pools": (VXLAN,), "underlay": link("eth0")["eth0"], "links": link("cali1", mtu=1500)},
        {"pools": (VXLAN,), "underlay": link("eth0")["eth0"], "links": link("cali1", mtu=1450)},
        Severity.ERROR,
        "it has MTU 1500; eth0 has 1500, of which encapsulation takes 50",
        "ip link set dev cali1 mtu 1450",
    ),
    "BGP's port is taken": (
        {"listeners": listens("bgpd", "frr.service")},
        {"listeners": listens(AGENT)},
        Severity.ERROR,
        "0.0.0.0 port 179: bgpd (pid 9, frr.service) listens",
        "systemctl disable --now frr.service",
    ),
    "BGP's port is taken by no service": (
        {"listeners": listens("gobgpd")},
        {"listeners": (ListeningSocket("0.0.0.0", 1790, Process(9, "gobgpd")),)},
        Severity.ERROR,
        "gobgpd (pid 9) listens",
        "kill 9",
    ),
    "networkd would manage our devices": (
        {"processes": (NETWORKD,), "networkd": (FILE,)},
        {"processes": (NETWORKD,), "networkd": (replace(FILE, present=True),)},
        Severity.ERROR,
        "there is no /etc/systemd/network/10-tortie.network",
        "mkdir -p /etc/systemd/network && printf '%s\\n' '[Match]' 'Name=cali*' "
        ">/etc/systemd/network/10-tortie.network && networkctl reload",
    ),
    "NetworkManager would manage our devices": (
        {"processes": (Process(4, "NetworkManager"),), "network_manager": (FILE,)},
        {"network_manager": (FILE,)},
        Severity.ERROR,
        "NetworkManager (pid 4) runs",
        "nmcli general reload conf",
    ),
    "firewalld": (
        {"processes": (Process(4, "firewalld"),)},
        {"processes": (Process(4, "firewall-applet"),)},
        Severity.WARNING,
        "firewalld (pid 4) runs",
        "firewall-cmd --permanent --add-port=179/tcp",
    ),
    "Calico runs": (
        {"processes": (Process(4, "calico-node", "calico-node.service"),)},
        {},
        Severity.ERROR,
        "calico-node (pid 4, calico-node.service) runs",
        "systemctl disable --now calico-node.service",
    ),
    "BIRD runs": (
        {"processes": (Process(4, "bird"),)},
        {"processes": (Process(4, "birdc"),)},
        Severity.WARNING,
        "bird (pid 4) runs",
        "kill 4",
    ),
    "another CNI's conflist goes first": (
        {"conflists": ("05-cilium.conflist", "10-tortie.conflist")},
        {"conflists": ("10-tortie.conflist", "99-loopback.conf")},
        Severity.ERROR,
        "/etc/cni/net.d/05-cilium.conflist comes before 10-tortie.conflist",
        "mv /etc/cni/net.d/05-cilium.conflist /etc/cni/net.d/05-cilium.conflist.off",
    ),
    "no conflist": (
        {"conflists": ()},
        {},
        Severity.NOTE,
        "there is no /etc/cni/net.d/10-tortie.conflist",
        "tortie cni install",
    ),
    "no ipip for a pool": (
        {"pools": (IPIP,), "modules": {"ipip": ModuleState.MISSING}},
        {"pools": (VXLAN,), "modules": {"ipip": ModuleState.MISSING}},
        Severity.ERROR,
        "it is needed for pool i",
        "apt install linux-image",
    ),
    "vxlan is not loaded": (
        {"pools": (VXLAN,), "modules": {"vxlan": ModuleState.LOADABLE}},
        {"pools": (VXLAN,), "modules": {"vxlan": ModuleState.PRESENT}},
        Severity.WARNING,
        "it is needed for pool v",
        "modprobe vxlan",
    ),
    "no veth": (
        {"modules": {"veth": ModuleState.MISSING}},
        {"modules": {"veth": ModuleState.PRESENT}},
        Severity.ERROR,
        "every pod",
        "apt install linux-image",
    ),
    "no nexthop objects": (
        {"wants_nexthops": True, "kernel": (5, 2)},
        {"wants_nexthops": True, "kernel": (5, 3)},
        Severity.NOTE,
        "the kernel is 5.2",
        "apt install linux-image",
    ),
    "no resilient groups": ({"wants_resilient_groups": True, "kernel": (5, 12)}, {"wants_resilient_groups": True},
        Severity.NOTE, "the kernel is 5.12", "apt install linux-image"),
    "a clock of its own": (
        {"synchronised": False},
        {"synchronised": True},
        Severity.WARNING,
        "STA_UNSYNC",
        "timedatectl set-ntp true",
    ),
    "a clock that differs from etcd's": (
        {"skew_seconds": -7.0},
        {"skew_seconds": -1.5},
        Severity.ERROR,
        "this machine is 7 s behind",
        "timedatectl set-ntp true",
    ),
    "connections nearly full": (
        {"sysctls": {"net/netfilter/nf_conntrack_max": "50000", "net/netfilter/nf_conntrack_count": "45000"}},
        {"sysctls": {"net/netfilter/nf_conntrack_max": "50000", "net/netfilter/nf_conntrack_count": "1000"}},
        Severity.ERROR,
        "45000 of 50000",
        "sysctl -w net.netfilter.nf_conntrack_max=100000",
    ),
    "few connections": (
        {"sysctls": {"net/netfilter/nf_conntrack_max": "8192"}},
        {"sysctls": {}},
        Severity.WARNING,
        "0 of 8192",
        "sysctl -w net.netfilter.nf_conntrack_max=65536",
    ),
    "few inotify instances": (
        {"sysctls": {"fs/inotify/max_user_instances": "16"}},
        {"sysctls": {"fs/inotify/max_user_instances": "128"}},
        Severity.WARNING,
        "fs.inotify.max_user_instances = 16",
        "sysctl -w fs.inotify.max_user_instances=128",
    ),
    "few inotify watches": (
        {"sysctls": {"fs/inotify/max_user_watches": "100"}},
        {"sysctls": {"fs/inotify/max_user_watches": "8192"}},
        Severity.WARNING,
        "fs.inotify.max_user_watches = 100",
        "sysctl -w fs.inotify.max_user_watches=8192",
    ),
    "too little memory for a password per peer": (
        {"sysctls": {"net/core/optmem_max": "20480"}, "bgp_peers": 200, "bgp_passwords": True},
        {"sysctls": {"net/core/optmem_max": "20480"}, "bgp_peers": 100, "bgp_passwords": True},
        Severity.WARNING,
        "net.core.optmem_max = 20480, 200 peers need 33024 if each has its own",
        "sysctl -w net.core.optmem_max=33024",
    ),
    "the same where nobody has a password": (
        {"sysctls": {"net/core/optmem_max": "20480"}, "bgp_peers": 200},
        {"bgp_peers": 200},
        Severity.NOTE,
        "net.core.optmem_max = 20480",
        "sysctl -w net.core.optmem_max=33024",
    ),
    "the agent may open few files": (
        {"agent_open_files": 1024, "processes": RUNNING},
        {"agent_open_files": 65536, "processes": RUNNING},
        Severity.WARNING,
        "its limit is 1024",
        "prlimit --pid 7 --nofile=65536",
    ),
    "the datastore is away": (
        {"pools_unknown": "no answer from etcd at http://x"},
        {},
        Severity.WARNING,
        "no answer from etcd at http://x",
        "tortie config show",
    ),
    "something could not be read": (
        {"unread": {"the kernel's network": "no rights"}},
        {},
        Severity.NOTE,
        "no rights",
        "sudo tortie node checksystem",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_finding_is_made_of_its_facts_and_not_of_the_nearest_others(name: str) -> None:
    bad, good, severity, evidence, fix = CASES[name]
    (found,) = findings(replace(QUIET, **bad))
    assert found.severity is severity
    assert evidence in found.evidence
    assert fix in found.fix
    assert found.what
    assert findings(replace(QUIET, **good)) == ()


def test_the_worst_is_said_first() -> None:
    every: Callable[[HostFacts], tuple[Severity, ...]] = lambda facts: tuple(  # noqa: E731
        one.severity for one in findings(facts)
    )
    mixed = replace(QUIET, conflists=(), synchronised=False, skew_seconds=9.0)
    assert every(mixed) == (Severity.ERROR, Severity.WARNING, Severity.NOTE)


def test_felix_is_to_be_stopped_before_its_rules_go() -> None:
    facts = replace(QUIET, calico=FilterRemains((CALICO_DROPS,)), processes=(Process(8, "calico-node"),))
    fixes = [one.fix for one in findings(facts)]
    assert fixes == ["kill 8", "kill 8 && tortie node remove-calico --yes"]
