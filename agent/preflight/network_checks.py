"""What preflight says of the network: overlapping ranges, filters, forwarding, MTU, who listens where BGP does.

Promises: pure; each finding has evidence and a command line that ends it. Does not know: how facts are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_interface

from agent.dataplane.desired.desired_tunnels import IPIP_OVERHEAD, VXLAN_OVERHEADS
from agent.dataplane.inputs.facts import bears_no_subnet, may_be_uplink
from agent.dataplane.kernel.calico_names import OUR_TUNNELS, WORKLOAD_PREFIX
from agent.dataplane.kernel.dataplane_objects import ForwardChain
from agent.netlink.objects import RTPROT_KERNEL, Address, Link, Prefix, Route, RouteType, protocol_name
from agent.preflight.host_facts import AGENT, HostFacts, HostFinding, Severity
from bgp.transport.md5_keys import optmem_needed
from ipam.model import EncapsulationMode, Pool

BGP_PORT = 179
STRICT = 1
"""rp_filter, RFC 3704: the way back must be the way in."""
BRIDGES = {
    "docker": "Docker's bridge",
    "br-": "a bridge of Docker's",
    "cni": "another CNI plugin's bridge",
    "flannel": "flannel's",
    "cilium": "Cilium's",
    "podman": "podman's bridge",
    "virbr": "libvirt's bridge",
    "lxcbr": "LXC's bridge",
    "weave": "Weave's bridge",
}
"""Beginning of a name -> whose it is."""
REMAINS = ("cni", "flannel", "cilium", "weave")
"""Beginnings of the names of interfaces that another CNI network left: these are to go, rather than our pool."""


def _foreign(name: str | None) -> bool:
    return name is not None and name not in OUR_TUNNELS and not name.startswith(WORKLOAD_PREFIX)


def _whose(device: str) -> str:
    owner = next((text for start, text in BRIDGES.items() if device.startswith(start)), None)
    return f"{device} ({owner})" if owner else device


def _overlaps(facts: HostFacts) -> Iterator[HostFinding]:
    for pool in facts.pools:
        reported: set[Prefix] = set()
        for link in facts.links.values():
            if _foreign(link.name) and link.kind != "loopback" and link.name != "lo":
                yield from _overlapping_addresses(pool, link, reported)
        for route in facts.routes:
            yield from _overlapping_route(pool, route, facts.owned, reported)


def _overlapping_addresses(pool: Pool, link: Link, reported: set[Prefix]) -> Iterator[HostFinding]:
    for address, length in link.addresses:
        network = ip_interface(f"{address}/{length}").network
        if address.version != pool.cidr.version or not network.overlaps(pool.cidr):
            continue
        reported.add(network)
        yield HostFinding(
            Severity.ERROR,
            f"pool {pool.name} overlaps this machine's own network",
            f"{_whose(link.name)} has {address}/{length}, the pool is {pool.cidr}",
            f"ip link del {link.name}"
            if link.name.startswith(REMAINS)
            else f"tortie delete ippool {pool.name}",
        )


def _overlapping_route(
    pool: Pool, route: Route, owned: frozenset[int], reported: set[Prefix]
) -> Iterator[HostFinding]:
    network = route.key.destination
    if network.version != pool.cidr.version or not network.prefixlen or network in reported:
        return
    if not network.overlaps(pool.cidr) or route.type not in (RouteType.UNICAST, RouteType.BLACKHOLE):
        return
    ours = route.protocol in owned and route.protocol != RTPROT_KERNEL
    if ours or (route.device is not None and not _foreign(route.device)):
        return
    inside = network.prefixlen >= pool.cidr.prefixlen
    protocol = protocol_name(route.protocol)
    yield HostFinding(
        Severity.ERROR if inside else Severity.WARNING,
        f"pool {pool.name} overlaps a route of somebody else",
        f"{route} (protocol {protocol}) {'lies in' if inside else 'covers'} {pool.cidr}"
        + ("" if inside else ": what is behind it can be reached no more where a block stands"),
        f"ip route del {network}{f' dev {route.device}' if route.device else ''}",
    )


def _forward(facts: HostFacts) -> Iterator[HostFinding]:
    for chain in facts.forward:
        if chain.drops and not chain.opened:
            yield _dropping(facts, chain)
    if facts.legacy_forward_drops:
        yield HostFinding(
            Severity.ERROR,
            "forwarded packets are dropped by iptables-legacy, which the agent does not open",
            f"iptables-legacy -S FORWARD begins with -P FORWARD DROP{_by_docker(facts)}",
            "iptables-legacy -I FORWARD -i cali+ -j ACCEPT && iptables-legacy -I FORWARD -o cali+ -j ACCEPT",
        )


def _dropping(facts: HostFacts, chain: ForwardChain) -> HostFinding:
    where = f"{chain.family} {chain.table} {chain.name}"
    evidence = f"nftables chain {where} drops what no rule of it accepts{_by_docker(facts)}"
    mark = ' comment "tortie"' if facts.opens_forward else ""  # by it the agent knows its own rules
    rules = "; ".join(f'insert rule {where} {way} "cali*" accept{mark}' for way in ("iifname", "oifname"))
    if not facts.opens_forward:
        what = "forwarded packets are dropped, and kernel.open_forward is off: rules of your own must let pods through"
        return HostFinding(Severity.WARNING, what, evidence, f"nft '{rules}'")
    if not facts.agent_runs:
        what = "forwarded packets are dropped, until the agent starts and lets those of pods through"
        return HostFinding(Severity.NOTE, what, evidence, f"systemctl start {AGENT}")
    return HostFinding(Severity.ERROR, "forwarded packets are dropped", evidence, f"nft '{rules}'")


def _by_docker(facts: HostFacts) -> str:
    docker = facts.running("dockerd")
    return f"; {docker[0]} sets it so" if docker else ""


def _forwarding(facts: HostFacts) -> Iterator[HostFinding]:
    wanted = {"net/ipv4/ip_forward": not facts.pools or any(pool.cidr.version == 4 for pool in facts.pools)}
    wanted["net/ipv6/conf/all/forwarding"] = any(pool.cidr.version == 6 for pool in facts.pools)
    for name, matters in wanted.items():
        if matters and facts.sysctl_number(name) == 0:
            dotted = name.replace("/", ".")
            yield HostFinding(
                Severity.ERROR if facts.agent_runs else Severity.WARNING,
                "this machine does not forward packets"
                + ("" if facts.agent_runs else " (the agent turns it on when it starts)"),
                f"{dotted} = 0",
                f"sysctl -w {dotted}=1",
            )


def _reverse_path(facts: HostFacts) -> Iterator[HostFinding]:
    """Strict filtering on a tunnel drops what a host, rather than a pod, sends through it: its way back is another."""
    overall = facts.sysctl_number("net/ipv4/conf/all/rp_filter") or 0
    tunnels = [name for name in sorted(OUR_TUNNELS) if name in facts.links]
    for name in tunnels or ["default"]:
        own = facts.sysctl_number(f"net/ipv4/conf/{name}/rp_filter")
        if own is not None and max(own, overall) == STRICT:
            to_come = "" if tunnels else " on interfaces to come, so on the tunnels"
            yield HostFinding(
                Severity.WARNING,
                f"reverse path filtering is strict{to_come or f' on {name}'}",
                f"net.ipv4.conf.{name}.rp_filter = {own}, net.ipv4.conf.all.rp_filter = {overall}; the larger counts",
                f"sysctl -w net.ipv4.conf.{name}.rp_filter=2",
            )


def _loopback_address(facts: HostFacts) -> Iterator[HostFinding]:
    """What is for an address of lo or a dummy may come by one uplink while the way back is another."""
    uplinks = [link for link in facts.links.values() if may_be_uplink(link) and _ipv4_of(link)]
    bearers = [
        (link, own) for link in facts.links.values() if bears_no_subnet(link) for own in _ipv4_of(link)
    ]
    if not bearers or len(uplinks) < 2:
        return
    overall = facts.sysctl_number("net/ipv4/conf/all/rp_filter") or 0
    bearer, address = bearers[0]
    for link in sorted(uplinks, key=lambda one: one.name):
        own = facts.sysctl_number(f"net/ipv4/conf/{link.name}/rp_filter")
        if own is not None and max(own, overall) == STRICT:
            yield HostFinding(
                Severity.WARNING,
                f"reverse path filtering is strict on {link.name}, one of several uplinks",
                f"{bearer.name} has {address}, which packets reach by every uplink; "
                f"net.ipv4.conf.{link.name}.rp_filter = {own}, net.ipv4.conf.all.rp_filter = {overall}",
                f"sysctl -w net.ipv4.conf.{link.name}.rp_filter=2",
            )


def _ipv4_of(link: Link) -> list[Address]:
    """Its addresses that others reach."""
    return [address for address, _ in link.addresses if address.version == 4 and not address.is_loopback]


def overhead(pool: Pool) -> int:
    """Bytes that a packet of this pool bears more on its way to some other node."""
    if pool.vxlan is not EncapsulationMode.NEVER:
        return VXLAN_OVERHEADS[pool.cidr.version]
    return IPIP_OVERHEAD if pool.ipip is not EncapsulationMode.NEVER else 0


def _mtu(facts: HostFacts) -> Iterator[HostFinding]:
    if facts.underlay is None:
        return
    more = max((overhead(pool) for pool in facts.pools), default=0)
    carried = facts.underlay.mtu - more
    for link in sorted(facts.links.values(), key=lambda one: one.name):
        if link.name.startswith(WORKLOAD_PREFIX) and link.mtu > carried:
            yield HostFinding(
                Severity.ERROR,
                f"packets of the pod behind {link.name} can be too large",
                f"it has MTU {link.mtu}; {facts.underlay.name} has {facts.underlay.mtu},"
                f" of which encapsulation takes {more}",
                f"ip link set dev {link.name} mtu {carried}",
            )


def _bgp_port(facts: HostFacts) -> Iterator[HostFinding]:
    for listener in facts.listeners:
        process = listener.process
        if listener.port != BGP_PORT or (process is not None and process.name == AGENT):
            continue
        yield HostFinding(
            Severity.ERROR,
            "BGP's port is taken",
            f"{listener.address} port {BGP_PORT}: {process or 'a process that cannot be identified'} listens",
            "ss -ltnp 'sport = :179'" if process is None else process.stop_command,
        )


def _md5_keys(facts: HostFacts) -> Iterator[HostFinding]:
    """Each BGP password costs memory of one socket, but for peers of one password that lie together (RFC 2385)."""
    most, needed = facts.sysctl_number("net/core/optmem_max"), optmem_needed(facts.bgp_peers)
    if most is None or most >= needed or not facts.bgp_peers:
        return
    yield HostFinding(
        Severity.WARNING if facts.bgp_passwords else Severity.NOTE,
        "the kernel would not take a BGP password for each peer",
        f"net.core.optmem_max = {most}, {facts.bgp_peers} peers need {needed} if each has its own",
        f"sysctl -w net.core.optmem_max={needed}",
    )


NETWORK_CHECKS = (
    _overlaps,
    _forward,
    _forwarding,
    _reverse_path,
    _loopback_address,
    _mtu,
    _bgp_port,
    _md5_keys,
)
