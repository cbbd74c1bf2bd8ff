"""The kernel of the network namespace this process is in: the one implementation of Kernel on a real machine.

Promises: those of protocol.py. Routes, neighbours and forwarding entries are read and written here; links and tunnel
devices in tunnel_devices, nftables' objects in ruleset, tracked connections in conntrack.
Does not know: what should exist, who owns what.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Mapping, Sequence
from ipaddress import IPv6Address
from weakref import WeakSet

from agent.dataplane.kernel.calico_names import version_of
from agent.dataplane.kernel.conntrack import Conntrack
from agent.dataplane.kernel.kernel_changes import NetlinkChanges
from agent.dataplane.kernel.nexthop_objects import Nexthops, hops_of
from agent.dataplane.kernel.protocol import PathToHost, Refusal
from agent.dataplane.kernel.ruleset import Ruleset
from agent.dataplane.kernel.tunnel_devices import Devices
from agent.netlink import rtlinks, rtnetlink, rtroutes, rtrules
from agent.netlink import sysctl as procfs
from agent.netlink.devices import device_index, device_name, is_gone
from agent.netlink.kernel_errors import KernelError, NoWay
from agent.netlink.netlink_socket import (
    NETLINK_ROUTE,
    UNSUPPORTED_ERRNOS,
    NlmsgError,
    RequestSockets,
    dump,
    reason,
)
from agent.netlink.objects import (
    Address,
    FdbEntry,
    Neighbour,
    PolicyRule,
    Route,
    RouteKey,
    RouteTarget,
    Sysctl,
    targets_of,
)
from agent.netlink.rtnexthops import Hops, Nexthop, Resilience
from agent.netlink.rtroutes import RouteDecoder, encoded

NO_WAY_ERRNOS = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH})
REFUSED_WAY_ERRNOS = NO_WAY_ERRNOS | {errno.EINVAL, errno.EACCES}
"""Of a packet that would be forwarded: those, and a blackhole's and a prohibition's."""
GONE = frozenset({errno.ESRCH, errno.ENOENT, errno.ENODEV})
"""The object or its device is not there: for a deletion, it is so already."""


class NetlinkKernel(Devices, Ruleset, Conntrack):
    """One request socket for routes, open all the time, and one for netfilter from its first use on.

    Dumps have a socket of their own, opened for the call.
    """

    def __init__(
        self, *, nexthop_objects: bool = False, resilience: Resilience | None = None, offload: bool = False
    ) -> None:
        """With `nexthop_objects`, routes through a gateway refer to shared objects where the kernel has them.

        With `resilience` their groups are resilient, where the kernel has such.
        With `offload`, tunnels are read with their checksum offload; otherwise that is nobody's business.
        """
        self._offload = offload
        self._holders = {}
        self._sockets = RequestSockets()
        self._requests = self._sockets[NETLINK_ROUTE]
        self._nexthops = Nexthops(self._requests, wanted=nexthop_objects, resilience=resilience)
        self._subscribers: WeakSet[NetlinkChanges] = WeakSet()
        self._decoder = RouteDecoder(device_name, references=nexthop_objects)

    def close(self) -> None:
        """Close the sockets."""
        for socket in self._sockets.values():
            socket.close()

    # -- reading --------------------------------------------------------------------------------------------------

    async def routes(self) -> Mapping[RouteKey, Route]:
        """All routes of the main tables without a TOS; of several with one key the first, which is in force."""
        generation = self._nexthops.generation
        self._decoder.begin()
        # The main table is made with its first route; a kernel may be without IPv6.
        absent = UNSUPPORTED_ERRNOS | {errno.ENOENT}
        found: dict[RouteKey, Route] = {}
        for family in rtnetlink.FAMILY_OF.values():
            request = rtroutes.route_dump_request(family=family)
            for row in await dump(request, rtnetlink.RTM_NEWROUTE, self._decoder.decode, absent=absent):
                # Its device went meanwhile, and it with that.
                if row[1].device is None or not is_gone(row[1].device):
                    found.setdefault(row.key, row)
        self._decoder.end()
        await self._nexthops.collect(self._decoder.nexthops, generation)
        return found

    async def neighbours(self, device: str) -> Mapping[Address, Neighbour]:
        """The permanent neighbours on a device; none when there is no such device."""
        pairs = await self._permanent(rtnetlink.FAMILY_OF[version_of(device)], device)
        return {address: Neighbour(device, address, mac) for mac, address in pairs}

    async def fdb(self, device: str) -> Mapping[str, FdbEntry]:
        """The permanent forwarding entries with a destination on a VXLAN device, by MAC."""
        pairs = await self._permanent(rtnetlink.AF_BRIDGE, device)
        return {mac: FdbEntry(device, mac, remote) for mac, remote in pairs}

    async def _permanent(self, family: int, device: str) -> list[tuple[str, Address]]:
        """MAC and destination of each permanent entry that has both."""
        index = device_index(device)
        if index is None:
            return []
        request = rtlinks.neighbour_dump_request(family, index)
        rows = await dump(request, rtnetlink.RTM_NEWNEIGH, rtlinks.decode_neighbour, absent=GONE)
        found = (row for row in rows if row.index == index and row.family == family)
        return [
            (row.mac, row.destination)
            for row in found
            if row.state & rtlinks.NUD_PERMANENT and row.mac is not None and row.destination is not None
        ]

    async def path_to(self, host: Address) -> PathToHost:
        """How the kernel would send a packet there. Raises NoWay, KernelError."""
        try:
            found = await dump(rtroutes.path_request(host), rtnetlink.RTM_NEWROUTE, rtroutes.decode_path)
        except NlmsgError as error:
            words = f"looking up the route to {host}: {error.why}"
            raise (NoWay if error.code in NO_WAY_ERRNOS else KernelError)(words) from error
        if not found:
            raise KernelError(f"looking up the route to {host}: the kernel gave no interface and source")
        return PathToHost(device_name(found[0].interface), found[0].source, found[0].gateway)

    async def policy_rules(self) -> tuple[PolicyRule, ...]:
        """Which rules decide what table packets are looked up in, the kernel's own apart. Raises KernelError."""
        found: list[PolicyRule] = []
        for family in rtnetlink.FAMILY_OF.values():
            request = rtrules.rule_dump_request(family)
            found += await dump(
                request, rtnetlink.RTM_NEWRULE, rtrules.decode_rule, absent=UNSUPPORTED_ERRNOS
            )
        return tuple(found)

    async def forwarded_by(self, host: Address, source: Address, arriving: str) -> str | None:
        """The interface by which a packet to a host goes on that comes from `source`; None: it does not."""
        index = device_index(arriving)
        if index is None:
            return None
        try:
            request = rtroutes.forwarding_request(host, source, index)
            found = await dump(request, rtnetlink.RTM_NEWROUTE, rtroutes.decode_interface)
        except NlmsgError as error:
            if error.code in REFUSED_WAY_ERRNOS:
                return None
            raise KernelError(f"looking up how {host} is reached from {source}: {error.why}") from error
        return device_name(found[0]) if found and found[0] else None

    async def received(self, tunnel: str) -> int:
        """Packets that have come out of a tunnel device; 0 when there is none. Raises KernelError."""
        request = rtlinks.link_request(tunnel, counters=True)
        return sum(await dump(request, rtnetlink.RTM_NEWLINK, rtlinks.decode_received, absent=GONE))

    # -- bulk -----------------------------------------------------------------------------------------------------

    async def put_routes(self, routes: Sequence[Route], *, replace: bool = True) -> tuple[Refusal, ...]:
        """Create or replace, each atomically. With `replace` false a route that is at the key stays: refused."""
        indexes = _Indexes()
        targets = targets_of(routes)
        absent = {
            number: name
            for number, target in targets.items()
            for name in target.devices()
            if indexes[name] is None
        }
        sent = [route for route in routes if id(route[1]) not in absent] if absent else routes
        groups = {} if not self._nexthops.wanted else _groups(targets, indexes)
        with self._nexthops.in_use():
            numbers = await self._nexthops.ensure(frozenset(groups.values()))

            def whole(route: Route) -> bytes:
                target = route.target
                group = groups.get(id(target))
                return rtroutes.route_request(
                    route,
                    indexes[target.device] if target.device is not None else None,
                    replace=replace,
                    nexthop=numbers.get(group) if group is not None else None,
                    interfaces=[indexes[hop.device or ""] for hop in target.hops],
                )

            refused = await self._carry_out(sent, encoded(sent, whole))
            if refused and numbers:
                self._nexthops.invalidate()
            self._note_plain(sent, {number for number, group in groups.items() if group not in numbers})
        left_out = (
            ((route, name) for route in routes if (name := absent.get(id(route[1]))) is not None)
            if absent
            else ()
        )
        return (*(Refusal(route, f"there is no device {name}") for route, name in left_out), *refused)

    def _note_plain(self, sent: Sequence[Route], targets: Collection[int]) -> None:
        """Note which routes go through a gateway without an object, so that no move of one moves them.

        `targets` are these routes' targets by identity.
        """
        if self._decoder.plain:
            self._decoder.plain.difference_update(key for key, _ in sent)
        if targets:
            self._decoder.plain.update(key for key, target in sent if id(target) in targets)

    async def move_routes(self, was: RouteTarget, now: RouteTarget, keys: Collection[RouteKey]) -> bool:
        """Send all routes of one target to another, in one step; they are at these keys. False: nothing was done."""
        groups = _groups({0: was, 1: now}, _Indexes())
        if len(groups) < 2 or not self._decoder.plain.isdisjoint(keys):
            return False
        with self._nexthops.in_use():
            return await self._nexthops.move(groups[0], groups[1], self._decoder.nexthops)

    async def leave_next_hops(self, gateways: Collection[Address]) -> int:
        """Take gateways out of every group of nexthop objects that has others; from how many. Raises KernelError."""
        indexes = _Indexes()
        with self._nexthops.in_use():
            return await self._nexthops.leave({_on_its_link(one, indexes) for one in gateways})

    async def remove_routes(self, routes: Sequence[Route]) -> tuple[Refusal, ...]:
        """Delete exactly these (destination, metric, protocol, type); a route of somebody else in their place stays."""
        return await self._carry_out(routes, encoded(routes, rtroutes.route_deletion, like=_deleted_by), GONE)

    async def put_entries(self, entries: Sequence[Neighbour | FdbEntry]) -> tuple[Refusal, ...]:
        """Create or replace permanent entries."""
        indexes = _Indexes()
        absent = [entry for entry in entries if indexes[entry.device] is None]
        refusals = (Refusal(entry, f"there is no device {entry.device}") for entry in absent)
        return (*refusals, *await self._entries(entries, indexes, rtlinks.entry_request))

    async def remove_entries(self, entries: Sequence[Neighbour | FdbEntry]) -> tuple[Refusal, ...]:
        """Delete entries."""
        return await self._entries(entries, _Indexes(), rtlinks.entry_deletion, GONE)

    async def _entries(
        self,
        entries: Sequence[Neighbour | FdbEntry],
        indexes: _Indexes,
        encode: Callable[[Neighbour | FdbEntry, int], bytes],
        tolerated: frozenset[int] = frozenset(),
    ) -> tuple[Refusal, ...]:
        """Those whose device is there."""
        requests = {
            entry: encode(entry, index) for entry in entries if (index := indexes[entry.device]) is not None
        }
        return await self._carry_out(tuple(requests), tuple(requests.values()), tolerated)

    async def _carry_out(
        self, objects: Sequence[object], requests: Sequence[bytes], tolerated: frozenset[int] = frozenset()
    ) -> tuple[Refusal, ...]:
        refused = await self._requests.execute(requests)
        return tuple(
            Refusal(objects[position], reason(code, words), code in UNSUPPORTED_ERRNOS, code == errno.EEXIST)
            for position, (code, words) in sorted(refused.items())
            if code not in tolerated
        )

    # -- sysctls --------------------------------------------------------------------------------------------------

    async def sysctls(self, names: Sequence[str], *, only: bool = False) -> Mapping[str, Sysctl]:
        """The present values of those that exist; subscribers get events of writes to them from then on."""
        for changes in self._subscribers:
            changes.follow(names, only=only)
        values = ((name, procfs.read(name)) for name in names)
        return {name: Sysctl(name, value) for name, value in values if value is not None}

    async def put_sysctls(self, sysctls: Sequence[Sysctl]) -> tuple[Refusal, ...]:
        """Set each, and read it back."""
        outcomes = ((sysctl, procfs.write(sysctl)) for sysctl in sysctls)
        return tuple(Refusal(sysctl, why) for sysctl, why in outcomes if why is not None)

    def changes(self) -> NetlinkChanges:
        """Subscribe to what others change. Raises KernelError."""
        changes = NetlinkChanges(self._sockets)
        self._subscribers.add(changes)
        return changes


def _deleted_by(target: RouteTarget) -> tuple[int, int]:
    """What of a target a deletion names."""
    return target.protocol, target.type


def _groups(targets: Mapping[int, RouteTarget], indexes: _Indexes) -> dict[int, Hops]:
    """The groups of nexthop objects that routes to these targets could refer to; none where there is no gateway."""
    found = {}
    for number, target in targets.items():
        hops = [
            (Nexthop(hop.gateway, index, hop.onlink), hop.weight)
            for hop in target.next_hops()
            if hop.gateway is not None and hop.device is not None
            if (index := indexes[hop.device]) is not None
        ]
        if hops and len(hops) == len(target.next_hops()):
            found[number] = hops_of(hops)
    return found


def _on_its_link(gateway: Address, indexes: _Indexes) -> tuple[Address, int | None]:
    """A gateway with the index of the interface that its zone names; of one that is not there none has it."""
    zone = gateway.scope_id if isinstance(gateway, IPv6Address) else None
    return (gateway, None) if zone is None else (IPv6Address(int(gateway)), indexes[zone] or 0)


class _Indexes(dict[str, int | None]):
    """Interface indexes by name, asked once per call."""

    def __missing__(self, name: str) -> int | None:
        self[name] = device_index(name)
        return self[name]
