"""A kernel of dictionaries: the second implementation of Kernel, with named faults and an outside that changes things.

Promises: the contract of agent/dataplane/kernel/protocol.py; `writes` lists every write in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from enum import Enum, auto
from ipaddress import ip_interface

from agent.dataplane.kernel.calico_names import VXLAN_DEVICES
from agent.dataplane.kernel.dataplane_objects import (
    ForwardChain,
    ForwardKey,
    Kind,
    Masquerade,
    WorkloadFilter,
)
from agent.dataplane.kernel.protocol import (
    KernelEvent,
    LinkChanged,
    ObjectsChanged,
    Overrun,
    PathToHost,
    Refusal,
)
from agent.netlink.kernel_errors import Incomplete, KernelError, NoWay, Unsupported
from agent.netlink.objects import (
    Address,
    FdbEntry,
    Link,
    Neighbour,
    NextHop,
    PolicyRule,
    Route,
    RouteKey,
    RouteTarget,
    Sysctl,
    Tunnel,
    TunnelKind,
)


class Fault(Enum):
    """What the next matching call does; taken off when it happened, except for what a kernel lacks."""

    DUMP_INTERRUPTED = auto()
    ROUTE_BATCH_FAILS = auto()
    NO_IPIP = auto()
    NO_NFTABLES = auto()
    NO_CONNTRACK = auto()
    CANNOT_LISTEN = auto()
    NO_VIA = auto()
    """A kernel before 5.2."""


class FakeChanges:
    """One subscription."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[KernelEvent] = asyncio.Queue()
        self.closed = False

    async def __anext__(self) -> KernelEvent:
        return await self.events.get()

    def close(self) -> None:
        self.closed = True


class FakeKernel:
    """See the module."""

    def __init__(self) -> None:
        self.faults: set[Fault] = set()
        self.refused: dict[RouteKey, str] = {}
        """Routes that every put refuses, with the reason."""
        self.writes: list[str] = []
        self.dumps: list[Kind] = []
        self.link_table: dict[str, Link] = {"lo": Link(1, "lo", None, 65536, True)}
        self.tunnel_table: dict[str, Tunnel] = {}
        self.received_table: dict[str, int] = {}
        """Packets that came out of a tunnel."""
        self.route_table: dict[RouteKey, Route] = {}
        self.moves_routes = False
        """Whether routes refer to nexthop objects, so that they can be moved in one step."""
        self._written: dict[RouteKey, Route] = {}
        """Routes with several next hops as they were put: without objects, those of a link that is down come back."""
        self.neighbour_table: dict[tuple[str, Address], Neighbour] = {}
        self.fdb_table: dict[tuple[str, str], FdbEntry] = {}
        self.nft_table: Masquerade | None = None
        self.filter_table: WorkloadFilter | None = None
        self.drops: dict[str, int] = {}
        """Reason -> packets that the filter dropped."""
        self.forward_table: dict[ForwardKey, ForwardChain] = {}
        self.sysctl_table: dict[str, str] = {"net/ipv4/ip_forward": "0"}
        self.connections: list[tuple[Address, Address]] = []
        """Tracked ones: who asked, who answered."""
        self.looked_for_connections = asyncio.Event()
        """Somebody wanted some forgotten."""
        self.rules: list[PolicyRule] = []
        self.ruled: dict[Address, str | None] = {}
        """Destinations that rules send elsewhere -> by which interface."""
        self.subscriptions: list[FakeChanges] = []
        self._next_index = 2

    # -- the outside ----------------------------------------------------------------------------------------------

    def _tell(self, event: KernelEvent) -> None:
        for subscription in self.subscriptions:
            subscription.events.put_nowait(event)

    def _tell_link(self, name: str) -> None:
        link = self.link_table[name]
        self._tell(LinkChanged(name, gone=not link.up, seen=replace(link, addresses=(), flagged=())))

    def add_link(self, name: str, *addresses_of_it: str, up: bool = True) -> None:
        """Somebody makes a link."""
        given = [ip_interface(text) for text in addresses_of_it]
        addresses = tuple((one.ip, one.network.prefixlen) for one in given)
        self.link_table[name] = Link(self._next_index, name, "veth", 1500, up, addresses=addresses)
        self._next_index += 1
        self.sysctl_table[f"net/ipv4/conf/{name}/proxy_arp"] = "0"
        self._tell_link(name)
        for address in addresses:
            self._tell(LinkChanged(name, address=address))

    def add_address(self, name: str, text: str) -> None:
        """Somebody gives a link one more address."""
        address = ip_interface(text).ip, ip_interface(text).network.prefixlen
        link = self.link_table[name]
        self.link_table[name] = replace(link, addresses=(*link.addresses, address))
        self._tell(LinkChanged(name, address=address))

    def delete_link(self, name: str) -> None:
        """Somebody deletes a link; what stood on it goes silently, as in the kernel."""
        gone = self.link_table.pop(name)
        del self.sysctl_table[f"net/ipv4/conf/{name}/proxy_arp"]
        self.tunnel_table.pop(name, None)
        self._lose_next_hops(name, deleted=True)
        self.neighbour_table = {
            key: entry for key, entry in self.neighbour_table.items() if entry.device != name
        }
        self.fdb_table = {key: entry for key, entry in self.fdb_table.items() if entry.device != name}
        self._tell(LinkChanged(name, gone=True, seen=replace(gone, addresses=(), flagged=())))

    def rename_link(self, old: str, new: str) -> None:
        """Somebody gives a link another name; nothing is said of the old one."""
        self.link_table[new] = replace(self.link_table.pop(old), name=new)
        value = self.sysctl_table.pop(f"net/ipv4/conf/{old}/proxy_arp")
        self.sysctl_table[f"net/ipv4/conf/{new}/proxy_arp"] = value
        self._tell_link(new)

    def set_link(self, name: str, *, up: bool) -> None:
        """Somebody sets a link up or down."""
        self.link_table[name] = replace(self.link_table[name], up=up)
        if not up:
            self._lose_next_hops(name)
        elif not self.moves_routes:
            for key, route in self._written.items():
                if key in self.route_table:
                    self.route_table[key] = self._shown(route)
        self._tell_link(name)

    def set_carrier(self, name: str, *, carrier: bool) -> None:
        """Somebody pulls a link's cable, or puts it in again: nexthop objects go with it (nexthop_flush_dev)."""
        self.link_table[name] = replace(self.link_table[name], carrier=carrier)
        if not carrier and self.moves_routes:
            self._lose_next_hops(name, by_gateway=True)
        self._tell_link(name)

    def _lose_next_hops(self, name: str, *, deleted: bool = False, by_gateway: bool = False) -> None:
        """A link carries nothing any more: routes lose their next hops over it, or go; nothing is said of that.

        With a link that is deleted an IPv4 route without objects goes as a whole (fib_sync_down_dev), one of IPv6
        loses a next hop.
        """
        for key, route in tuple(self.route_table.items()):
            hops = route.target.next_hops()
            lost = {hop for hop in hops if hop.device == name and not (by_gateway and hop.gateway is None)}
            left = tuple(hop for hop in hops if hop not in lost)
            if lost and (not left or (deleted and key.version == 4 and not self.moves_routes)):
                del self.route_table[key]
                self._written.pop(key, None)
            elif lost:
                self.route_table[key] = Route.from_target(key, route.target.through(left))
                if deleted or self.moves_routes:
                    self._written.pop(key, None)

    def _shown(self, route: Route) -> Route:
        """Without the next hops whose link is down."""
        hops = route.target.hops
        up = tuple(hop for hop in hops if self.link_table[hop.device or ""].up)
        return route if len(up) == len(hops) else Route.from_target(route.key, route.target.through(up))

    def foreign_put(self, route: Route) -> None:
        """Somebody writes a route, replacing what is there."""
        self._write(route)
        self._tell(ObjectsChanged(Kind.ROUTE, route))

    def foreign_delete(self, key: RouteKey) -> None:
        """Somebody deletes a route."""
        self._tell(ObjectsChanged(Kind.ROUTE, self.route_table.pop(key), gone=True))

    def foreign_flush_nft(self) -> None:
        """Somebody flushes the ruleset."""
        self.nft_table = self.filter_table = None
        self._tell(ObjectsChanged(Kind.FILTER, by="firewalld"))
        self._tell(ObjectsChanged(Kind.MASQUERADE, by="firewalld"))

    def foreign_forward(self, chain: ForwardChain) -> None:
        """Somebody makes a chain anew, without any rule."""
        self.forward_table[chain.key] = chain
        self._tell(ObjectsChanged(Kind.FORWARD, by="dockerd"))

    def foreign_sysctl(self, name: str, value: str) -> None:
        """Somebody sets a sysctl."""
        self.sysctl_table[name] = value
        self._tell(ObjectsChanged(Kind.SYSCTL, names=frozenset({name})))

    def overrun(self) -> None:
        """Notifications get lost."""
        self._tell(Overrun())

    # -- Kernel ---------------------------------------------------------------------------------------------------

    async def links(self) -> Mapping[str, Link]:
        await asyncio.sleep(0)
        return dict(self.link_table)

    async def link(self, name: str) -> Link | None:
        await asyncio.sleep(0)
        return self.link_table.get(name)

    async def tunnels(self) -> Mapping[str, Tunnel]:
        self.dumps.append(Kind.TUNNEL)
        await asyncio.sleep(0)
        return dict(self.tunnel_table)

    async def routes(self) -> Mapping[RouteKey, Route]:
        self.dumps.append(Kind.ROUTE)
        await asyncio.sleep(0)
        if Fault.DUMP_INTERRUPTED in self.faults:
            self.faults.remove(Fault.DUMP_INTERRUPTED)
            raise Incomplete("a dump was interrupted too often")
        return dict(self.route_table)

    async def neighbours(self, device: str) -> Mapping[Address, Neighbour]:
        self.dumps.append(Kind.NEIGHBOUR)
        await asyncio.sleep(0)
        return {entry.address: entry for entry in self.neighbour_table.values() if entry.device == device}

    async def fdb(self, device: str) -> Mapping[str, FdbEntry]:
        self.dumps.append(Kind.FDB)
        await asyncio.sleep(0)
        return {entry.mac: entry for entry in self.fdb_table.values() if entry.device == device}

    async def put_tunnel(self, tunnel: Tunnel) -> None:
        await asyncio.sleep(0)
        if tunnel.kind is TunnelKind.IPIP and Fault.NO_IPIP in self.faults:
            raise Unsupported("this kernel has no ipip")
        if tunnel.parent is not None and tunnel.parent not in self.link_table:
            raise KernelError(f"creating {tunnel.name}: its parent {tunnel.parent} does not exist")
        actual = self.tunnel_table.get(tunnel.name)
        if actual is not None and tunnel.immutable_differences(actual):
            self.delete_link(tunnel.name)
        if tunnel.name not in self.link_table:
            self.add_link(tunnel.name)
        addresses = ((tunnel.address, tunnel.address.max_prefixlen),) if tunnel.address else ()
        link = self.link_table[tunnel.name]
        self.link_table[tunnel.name] = replace(
            link, mtu=tunnel.mtu, mac=tunnel.mac, addresses=addresses, up=True
        )
        self.tunnel_table[tunnel.name] = tunnel
        self.writes.append(f"put {tunnel.name}")
        self._tell_link(tunnel.name)

    async def remove_tunnel(self, name: str) -> None:
        await asyncio.sleep(0)
        self.writes.append(f"remove {name}")
        if name not in self.tunnel_table:
            return
        if name in VXLAN_DEVICES:
            self.delete_link(name)
        else:
            self.tunnel_table[name] = replace(self.tunnel_table[name], up=False, address=None)
            self.link_table[name] = replace(self.link_table[name], addresses=())
            self.set_link(name, up=False)

    async def received(self, tunnel: str) -> int:
        await asyncio.sleep(0)
        return self.received_table.get(tunnel, 0) if tunnel in self.tunnel_table else 0

    def _is_elsewhere(self, hop: NextHop) -> bool:
        """Whether the way to an IPv6 gateway is over another device (ip6_route_check_nh_onlink)."""
        gateway = hop.gateway
        if gateway is None or gateway.version == 4 or not hop.onlink:
            return False
        ways = [key for key in self.route_table if key.length and gateway in key.destination]
        if not ways:
            return False
        longest = self.route_table[max(ways, key=lambda key: key.length)]
        return hop.device not in longest.target.devices()

    def _why_not(self, route: Route) -> str:
        """What the kernel says of a route that it refuses; empty: it takes it."""
        if route.key in self.refused:
            return self.refused[route.key]
        hops = route.target.next_hops()
        absent = sorted(route.target.devices() - self.link_table.keys())
        if absent:
            return f"there is no device {absent[0]}"
        for hop in hops:
            if hop.device is not None and not self.link_table[hop.device].up:
                return "Device for nexthop is not up"
            version = hop.gateway.version if hop.gateway is not None else route.key.version
            if version != route.key.version and (version == 4 or Fault.NO_VIA in self.faults):
                # inet6_rtm_newroute; of old kernels fib_get_nhs.
                return f"IPv{route.key.version} does not support RTA_VIA attribute"
            if self._is_elsewhere(hop):
                return "Nexthop has invalid gateway or device mismatch"
        return "" if self._has(route.target.source) else "Invalid source address"

    def _has(self, source: Address | None) -> bool:
        """Whether it may be a route's source: it is one of this host's addresses."""
        own = (address for link in self.link_table.values() for address, _ in link.addresses)
        return source is None or source in own

    async def put_routes(self, routes: Sequence[Route], *, replace: bool = True) -> tuple[Refusal, ...]:
        await asyncio.sleep(0)
        if Fault.ROUTE_BATCH_FAILS in self.faults:
            self.faults.remove(Fault.ROUTE_BATCH_FAILS)
            raise KernelError("a batch of netlink requests: No buffer space available")
        refusals = []
        for route in routes:
            self.writes.append(f"put {route}")
            if why := self._why_not(route):
                refusals.append(Refusal(route, why))
            elif not replace and route.key in self.route_table:
                refusals.append(Refusal(route, "File exists", exists=True))
            else:
                self._write(route)
        return tuple(refusals)

    async def move_routes(self, was: RouteTarget, now: RouteTarget, keys: Collection[RouteKey]) -> bool:
        known = [self.route_table.get(key) for key in keys]
        if not self.moves_routes or any(one is None or one.target != was for one in known):
            return False
        if any(self._why_not(Route.from_target(key, now)) for key in keys):
            return False
        self.writes.append(f"move {len(keys)}")
        for key in keys:
            self._write(Route.from_target(key, self.route_table[key].target.through(now.next_hops())))
        return True

    async def leave_next_hops(self, gateways: Collection[Address]) -> int:
        changed = set()
        for key, route in self.route_table.items() if self.moves_routes else ():
            left = tuple(hop for hop in route.target.hops if not hop.is_through(gateways))
            if left and len(left) < len(route.target.hops):
                self.route_table[key] = Route.from_target(key, route.target.through(left))
                changed.add(route.target.hops)
        return len(changed)

    def _write(self, route: Route) -> None:
        self.route_table[route.key] = route
        self._written.pop(route.key, None)
        if route.target.hops:
            self._written[route.key] = route

    async def remove_routes(self, routes: Sequence[Route]) -> tuple[Refusal, ...]:
        await asyncio.sleep(0)
        for route in routes:
            self.writes.append(f"remove {route}")
            known = self.route_table.get(route.key)
            if known is not None and (known.protocol, known.type) == (route.protocol, route.type):
                del self.route_table[route.key]
                self._written.pop(route.key, None)
        return ()

    async def put_entries(self, entries: Sequence[Neighbour | FdbEntry]) -> tuple[Refusal, ...]:
        await asyncio.sleep(0)
        for entry in entries:
            self.writes.append(f"put {_entry_text(entry)}")
            if entry.device not in self.link_table:
                continue
            if isinstance(entry, Neighbour):
                self.neighbour_table[entry.device, entry.address] = entry
            else:
                self.fdb_table[entry.device, entry.mac] = entry
        absent = (entry for entry in entries if entry.device not in self.link_table)
        return tuple(Refusal(entry, f"there is no device {entry.device}") for entry in absent)

    async def remove_entries(self, entries: Sequence[Neighbour | FdbEntry]) -> tuple[Refusal, ...]:
        await asyncio.sleep(0)
        for entry in entries:
            self.writes.append(f"remove {_entry_text(entry)}")
            if isinstance(entry, Neighbour):
                self.neighbour_table.pop((entry.device, entry.address), None)
            else:
                self.fdb_table.pop((entry.device, entry.mac), None)
        return ()

    async def masquerade(self) -> Masquerade | None:
        self.dumps.append(Kind.MASQUERADE)
        await asyncio.sleep(0)
        return self.nft_table

    async def put_masquerade(self, masquerade: Masquerade) -> None:
        await asyncio.sleep(0)
        if Fault.NO_NFTABLES in self.faults and masquerade.sources:
            raise Unsupported("this kernel has no nftables ip family")
        self.writes.append("put masquerade")
        self.nft_table = masquerade.collapsed() if masquerade.sources else None

    async def workload_filter(self) -> WorkloadFilter | None:
        self.dumps.append(Kind.FILTER)
        await asyncio.sleep(0)
        return self.filter_table

    async def put_workload_filter(self, wanted: WorkloadFilter | None, was: WorkloadFilter | None) -> None:
        await asyncio.sleep(0)
        if Fault.NO_NFTABLES in self.faults and wanted is not None:
            raise Unsupported("this kernel cannot hold the nftables table inet tortie")
        if wanted is None:
            self.writes.append("remove filter")
        elif was is None or self.filter_table is None or not self.filter_table.is_intact:
            self.writes.append("make filter")
        else:
            have, want = (one.workloads | one.cluster for one in (self.filter_table, wanted))
            self.writes.append(f"filter +{len(want - have)} -{len(have - want)}")
        self.filter_table = wanted

    async def filter_drops(self) -> Mapping[str, int]:
        await asyncio.sleep(0)
        return dict(self.drops)

    async def forward_chains(self) -> Mapping[ForwardKey, ForwardChain]:
        self.dumps.append(Kind.FORWARD)
        await asyncio.sleep(0)
        return dict(self.forward_table)

    async def put_forward_chain(self, chain: ForwardChain) -> None:
        await asyncio.sleep(0)
        self.writes.append(f"{'open' if chain.opened else 'close'} {' '.join(chain.key)}")
        if chain.key in self.forward_table:
            self.forward_table[chain.key] = chain

    async def sysctls(self, names: Sequence[str], *, only: bool = False) -> Mapping[str, Sysctl]:
        self.dumps.append(Kind.SYSCTL)
        await asyncio.sleep(0)
        return {name: Sysctl(name, self.sysctl_table[name]) for name in names if name in self.sysctl_table}

    async def put_sysctls(self, sysctls: Sequence[Sysctl]) -> tuple[Refusal, ...]:
        await asyncio.sleep(0)
        self.writes += [f"set {sysctl.name}" for sysctl in sysctls]
        there = [sysctl for sysctl in sysctls if sysctl.name in self.sysctl_table]
        self.sysctl_table |= {sysctl.name: sysctl.value for sysctl in there}
        return tuple(
            Refusal(sysctl, "No such file or directory") for sysctl in sysctls if sysctl not in there
        )

    async def delete_connections(self, addresses: Collection[Address]) -> int:
        await asyncio.sleep(0)
        self.looked_for_connections.set()
        if Fault.NO_CONNTRACK in self.faults:
            raise Unsupported("this kernel has no ctnetlink")
        others = [pair for pair in self.connections if not set(pair) & set(addresses)]
        removed, self.connections = len(self.connections) - len(others), others
        if addresses:
            self.writes.append(f"delete connections of {', '.join(sorted(map(str, addresses)))}")
        return removed

    async def path_to(self, host: Address) -> PathToHost:
        await asyncio.sleep(0)
        for link in self.link_table.values():
            for address, length in link.addresses:
                if address.version == host.version and host in ip_interface(f"{address}/{length}").network:
                    return PathToHost(link.name, address, None)
        raise NoWay(f"looking up the route to {host}: Network is unreachable")

    async def policy_rules(self) -> tuple[PolicyRule, ...]:
        await asyncio.sleep(0)
        return tuple(self.rules)

    async def forwarded_by(self, host: Address, source: Address, arriving: str) -> str | None:
        await asyncio.sleep(0)
        if host in self.ruled:
            return self.ruled[host]
        ways = [key for key in self.route_table if key.version == host.version and host in key.destination]
        if not ways:
            return None
        longest = self.route_table[max(ways, key=lambda key: key.length)]
        return next((hop.device for hop in longest.target.next_hops()), None)

    def changes(self) -> FakeChanges:
        if Fault.CANNOT_LISTEN in self.faults:
            raise KernelError("opening a netlink socket: Too many open files")
        self.subscriptions.append(FakeChanges())
        return self.subscriptions[-1]


def _entry_text(entry: Neighbour | FdbEntry) -> str:
    return f"neighbour {entry.address}" if isinstance(entry, Neighbour) else f"fdb {entry.mac}"
