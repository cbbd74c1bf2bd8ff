"""What others change in the kernel: notifications of its multicast groups, as hints.

Promises: notifications of our own requests are left out where the kernel marks them with our port; a lost notification
becomes one Overrun. Does not know: what is ours.
"""

from __future__ import annotations

import asyncio
import select
import struct
from collections import deque
from collections.abc import Collection
from contextlib import suppress

from agent.dataplane.kernel.calico_names import OUR_TUNNELS
from agent.dataplane.kernel.dataplane_objects import Kind
from agent.dataplane.kernel.filter_table import concerns_filter
from agent.dataplane.kernel.forward_rules import concerns_forwarding
from agent.dataplane.kernel.masquerade_table import concerns_masquerading
from agent.dataplane.kernel.protocol import KernelEvent, LinkChanged, ObjectsChanged, Overrun
from agent.netlink import nftables, rtnetlink
from agent.netlink.devices import device_name
from agent.netlink.kernel_errors import Unsupported
from agent.netlink.netlink_socket import (
    NETLINK_NETFILTER,
    NETLINK_ROUTE,
    Lost,
    RequestSockets,
    Subscription,
    readable,
)
from agent.netlink.rtlinks import decode_address, decode_link, decode_neighbour
from agent.netlink.rtnetlink import Message, attributes, messages
from agent.netlink.rtnexthops import RTM_DELNEXTHOP, decode_nexthop
from agent.netlink.rtroutes import decode_route
from agent.netlink.sysctl import SysctlWatch

GROUPS = (
    rtnetlink.RTNLGRP_LINK,
    rtnetlink.RTNLGRP_NEIGH,
    rtnetlink.RTNLGRP_IPV4_IFADDR,
    rtnetlink.RTNLGRP_IPV4_ROUTE,
    rtnetlink.RTNLGRP_IPV6_IFADDR,
    rtnetlink.RTNLGRP_IPV6_ROUTE,
    rtnetlink.RTNLGRP_IPV4_NETCONF,
    rtnetlink.RTNLGRP_IPV6_NETCONF,
    rtnetlink.RTNLGRP_NEXTHOP,
)
NETCONFMSG_BYTES, NETCONFA_IFINDEX = 4, 1
"""linux/netconf.h: the family, padded; the interface, -1 for all, -2 for later ones."""
LINK_LOCAL_6 = b"\xfe\x80"
"""How fe80::/16 begins: what is on one link is no route's that matters here."""
NOISE_SECONDS = 0.005
"""Notifications that follow some of no concern wait together for so long: a new interface makes twenty."""
RTNETLINK_TYPES = 0x100
"""Above are netfilter's, by subsystem."""
MOST_NAMES = 8192
"""Interfaces whose names are remembered."""
MOST_DATAGRAMS_AT_ONCE = 256
"""Notifications taken before the listener is asked to work: some 2 ms."""


class NetlinkChanges:
    """One subscription; ask it for one event after the other, then close it."""

    def __init__(self, own: RequestSockets) -> None:
        """Changes made over our `own` sockets are left out: they do not even arrive, for each pod makes some."""
        self._own = own
        self._subscriptions = [Subscription(NETLINK_ROUTE, GROUPS)]
        self._subscriptions[0].ignore(own[NETLINK_ROUTE].port)
        with suppress(Unsupported):  # without nftables there are no notifications of it
            self._subscriptions.append(Subscription(NETLINK_NETFILTER, (nftables.NFNLGRP_NFTABLES,)))
            self._subscriptions[1].ignore(own[NETLINK_NETFILTER].port)
        self._sysctls = SysctlWatch()
        self._any = select.epoll()
        """Readable when one of them is: for the loop one descriptor to wait for, and not three."""
        for one in (*self._subscriptions, *([self._sysctls] if self._sysctls.works else ())):
            self._any.register(one.fileno(), select.EPOLLIN)
        self._names: dict[int, str] = {}
        """Index -> name of interfaces, as last said: that an address went is read when its interface has gone, too."""
        self._touched: set[Kind] = set()
        self._waiting: deque[KernelEvent] = deque()

    def close(self) -> None:
        """Unsubscribe."""
        self._any.close()
        for subscription in self._subscriptions:
            subscription.close()
        self._sysctls.close()

    def follow(self, names: Collection[str], *, only: bool) -> None:
        """Report writes to these sysctls, too, or to these `only`."""
        if only:
            self._sysctls.only(names)
        self._sysctls.follow(names)

    async def __anext__(self) -> KernelEvent:
        is_noise = False
        while not self._waiting:
            await readable([self._any])
            if is_noise:
                await asyncio.sleep(NOISE_SECONDS)
            is_noise = True
            written = self._sysctls.written() if self._sysctls.works else frozenset()
            if written is None or written:
                self._waiting.append(ObjectsChanged(Kind.SYSCTL, names=written or frozenset()))
            # Equal hints that wait together are one hint, in the place of the last: a route came, went and came.
            for subscription in self._subscriptions:
                self._waiting.extend(reversed(dict.fromkeys(reversed(self._take(subscription)))))
        return self._waiting.popleft()

    def _take(self, subscription: Subscription) -> list[KernelEvent]:
        events: list[KernelEvent] = []
        own = {socket.port for socket in self._own.values()}
        for _ in range(MOST_DATAGRAMS_AT_ONCE):
            try:
                data = subscription.read()
            except Lost:
                events.append(Overrun())
                continue
            if data is None:
                break
            for found in messages(data):
                if found.port not in own:
                    events += self._events(data, found)
        return events

    def _events(self, data: bytes, found: Message) -> list[KernelEvent]:
        if found.type in {rtnetlink.RTM_NEWROUTE, rtnetlink.RTM_DELROUTE}:
            route = decode_route(data, found.start, found.end, device_name)
            gone, appended = found.type == rtnetlink.RTM_DELROUTE, bool(found.flags & rtnetlink.NLM_F_APPEND)
            if route is None or (route.key.version == 6 and route.key.octets.startswith(LINK_LOCAL_6)):
                return []  # each new interface has a route to fe80::/64
            return [ObjectsChanged(Kind.ROUTE, route, gone, appended)]
        if found.type in {rtnetlink.RTM_NEWLINK, rtnetlink.RTM_DELLINK}:
            return self._link(data, found)
        if found.type in {rtnetlink.RTM_NEWADDR, rtnetlink.RTM_DELADDR}:
            return self._address(data, found)
        if found.type in {rtnetlink.RTM_NEWNEIGH, rtnetlink.RTM_DELNEIGH}:
            return self._neighbour(data, found)
        if found.type == RTM_DELNEXTHOP:
            # With a nexthop object the kernel drops its routes and says nothing of them.
            return [ObjectsChanged(Kind.ROUTE)] if decode_nexthop(data, found.start, found.end) else []
        if found.type == rtnetlink.RTM_NEWNETCONF:
            return self._settings(data, found)
        return self._nftables(data, found)

    def _nftables(self, data: bytes, found: Message) -> list[KernelEvent]:
        """A transaction is notified object by object; its last message, the new generation, says whose it was."""
        if found.type < RTNETLINK_TYPES:
            return []  # another message of rtnetlink's: an interface's settings went with it
        if found.type != nftables.NEWGEN:
            if concerns_filter(data, found):
                self._touched.add(Kind.FILTER)
            if concerns_masquerading(data, found):
                self._touched.add(Kind.MASQUERADE)
            if concerns_forwarding(data, found):
                self._touched.add(Kind.FORWARD)
            return []
        touched, self._touched = self._touched, set()
        return [ObjectsChanged(kind, by=nftables.author(data, found)) for kind in sorted(touched)]

    def _link(self, data: bytes, found: Message) -> list[KernelEvent]:
        row = decode_link(data, found.start, found.end)
        if row is None:
            return []
        is_gone = found.type == rtnetlink.RTM_DELLINK
        if is_gone:
            self._names.pop(row.index, None)
        elif len(self._names) < MOST_NAMES:
            self._names[row.index] = row.name
        return [LinkChanged(row.name, is_gone or not row.up, row.link(()))]

    def _address(self, data: bytes, found: Message) -> list[KernelEvent]:
        row = decode_address(data, found.start, found.end)
        if row is None or (row.address.version == 6 and row.address.is_link_local):
            return []  # each new interface gets a link-local address, tentative first; nothing of ours depends on it
        is_lost, name = found.type == rtnetlink.RTM_DELADDR, self._names.get(row.index)
        return [
            LinkChanged(name or device_name(row.index), address=(row.address, row.length), is_lost=is_lost)
        ]

    def _settings(self, data: bytes, found: Message) -> list[KernelEvent]:
        """A change of an interface's settings; without an interface, or of `all` of them, it may be anywhere."""
        words = attributes(data, found.start + NETCONFMSG_BYTES, found.end)
        (index,) = struct.unpack("=i", words.get(NETCONFA_IFINDEX, b"\0\0\0\0"))
        if index <= 0:
            return [ObjectsChanged(Kind.SYSCTL)]
        names = self._sysctls.of(device_name(index))
        # A new interface's are read anyway.
        return [ObjectsChanged(Kind.SYSCTL, names=names)] if names else []

    def _neighbour(self, data: bytes, found: Message) -> list[KernelEvent]:
        row = decode_neighbour(data, found.start, found.end)
        # Every pod's ARP passes here; only our own devices' entries are static.
        if row is None or device_name(row.index) not in OUR_TUNNELS:
            return []
        return [ObjectsChanged(Kind.FDB if row.family == rtnetlink.AF_BRIDGE else Kind.NEIGHBOUR)]
