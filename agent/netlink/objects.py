"""Links, addresses, routes, neighbours and sysctls as values with the kernel's own keys.

Promises: equal values mean the same kernel state; devices are named, never numbered (the adapter finds the index at the
last moment), except that a route is compared with the device that now bears the name.
Does not know: netlink, who desires an object, or why.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum, IntFlag
from functools import partial, total_ordering
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import repeat
from operator import itemgetter
from typing import Any, NamedTuple

Prefix = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

RTPROT_KERNEL = 2
RTPROT_BOOT = 3
RTPROT_BIRD = 12

MAIN_TABLE = 254
"""RT_TABLE_MAIN of linux/rtnetlink.h."""
IPV6_METRIC = 1024
"""IP6_RT_PRIO_USER: what the kernel makes of a metric of 0 for IPv6; a key bears 0 for it."""


class RouteType(IntEnum):
    """rtm_type of linux/rtnetlink.h. Only the first and BLACKHOLE are ever desired; the others are met."""

    UNICAST = 1
    LOCAL = 2
    BROADCAST = 3
    ANYCAST = 4
    MULTICAST = 5
    BLACKHOLE = 6
    UNREACHABLE = 7
    PROHIBIT = 8
    THROW = 9


class Scope(IntEnum):
    """rtm_scope of linux/rtnetlink.h."""

    UNIVERSE = 0
    SITE = 200
    LINK = 253
    HOST = 254
    NOWHERE = 255


class _KeyFields(NamedTuple):
    version: int
    """4 or 6."""
    packed: bytes
    """The packed prefix."""
    table: int
    """The routing table's number."""
    metric: int
    """0 for none."""


class RouteKey(_KeyFields):
    """What the kernel's FIB itself uses as key: version of IP, packed prefix, table, metric.

    The prefix is packed as BGP packs it (RFC 4271 section 4.3): an octet of length and no octet more than that needs,
    bits behind it cleared. Tables of very many routes have this key, so its hash and comparison are C's.
    """

    __slots__ = ()

    def __new__(cls, destination: Prefix, table: int = MAIN_TABLE, metric: int = 0) -> RouteKey:
        """The key of a prefix."""
        length = destination.prefixlen
        packed = bytes((length,)) + destination.network_address.packed[: (length + 7) // 8]
        return tuple.__new__(cls, (destination.version, packed, table, metric))

    @classmethod
    def of_packed(cls, version: int, packed: bytes, table: int = MAIN_TABLE, metric: int = 0) -> RouteKey:
        """The key of a packed prefix."""
        return tuple.__new__(cls, (version, packed, table, metric))

    @classmethod
    def of_many(cls, version: int, packed: Iterable[bytes]) -> Iterator[RouteKey]:
        """The keys of packed prefixes, in the main table, without a metric."""
        fields = zip(repeat(version), packed, repeat(MAIN_TABLE), repeat(0), strict=False)
        return map(partial(tuple.__new__, cls), fields)

    @property
    def length(self) -> int:
        """Bits of the prefix."""
        return self[1][0]

    @property
    def octets(self) -> bytes:
        """The prefix's whole address."""
        return self[1][1:].ljust(ADDRESS_OCTETS[self[0]], b"\0")

    @property
    def is_host(self) -> bool:
        """Whether it is one address."""
        return self[1][0] == 8 * ADDRESS_OCTETS[self[0]]

    def around(self) -> Iterator[RouteKey]:
        """The keys of the prefixes around this one, the longest first; of its table, without a metric."""
        version, packed, table, _ = self
        bits = 8 * ADDRESS_OCTETS[version]
        value = int.from_bytes(self.octets)
        for length in range(packed[0] - 1, -1, -1):
            octets = (value >> (bits - length) << (bits - length)).to_bytes(ADDRESS_OCTETS[version])
            yield RouteKey.of_packed(version, bytes((length,)) + octets[: (length + 7) // 8], table)

    @property
    def destination(self) -> Prefix:
        """The prefix as a value for people; made when asked for."""
        if self[0] == 6:
            return IPv6Network((self.octets, self.length))
        return IPv4Network((self.octets, self.length))

    def __str__(self) -> str:
        return str(self.destination)


ADDRESS_OCTETS = {4: 4, 6: 16}


MOST_WEIGHT = 256
"""Of a next hop among several: rtnh_hops is an octet, and 0 there is a weight of 1."""


@total_ordering
@dataclass(frozen=True, slots=True)
class NextHop:
    """One of a route's several next hops (struct rtnexthop of linux/rtnetlink.h). Any two can be put in an order."""

    gateway: Address | None
    """Without a zone: `device` says on which link a link-local address is."""
    device: str | None
    onlink: bool = False
    weight: int = 1
    """1..256: its share of the flows."""

    @property
    def _rank(self) -> tuple[int, int, str, bool, int]:
        version, number = (0, 0) if self.gateway is None else (self.gateway.version, int(self.gateway))
        return version, number, self.device or "", self.onlink, self.weight

    def __lt__(self, other: NextHop) -> bool:
        return self._rank < other._rank

    def is_through(self, gateways: Collection[Address]) -> bool:
        """Whether its gateway is one of these; a link-local one with a zone is that of one link alone."""
        gateway = self.gateway
        if gateway is None or not gateways:
            return False
        if isinstance(gateway, IPv6Address) and gateway.is_link_local and self.device is not None:
            return gateway in gateways or IPv6Address(f"{gateway}%{self.device}") in gateways
        return gateway in gateways

    def words(self, version: int) -> Iterator[str]:
        """As `ip route` has it in a route of this version of IP, the weight apart."""
        if self.gateway is not None:
            yield f"via {self.gateway}" if self.gateway.version == version else f"via inet6 {self.gateway}"
        if self.device is not None:
            yield f"dev {self.device}"


@dataclass(frozen=True, slots=True)
class RouteTarget:
    """Everything of a route but its key: what very many routes share."""

    type: RouteType = RouteType.UNICAST
    gateway: Address | None = None
    """Of an IPv4 route it may be an IPv6 address (`via inet6`, RFC 8950). None with several next hops."""
    device: str | None = None
    """None with several next hops."""
    protocol: int = RTPROT_BIRD
    scope: Scope = Scope.UNIVERSE
    onlink: bool = False
    odd: bool = False
    """Bears what this agent never sets (metrics): met, never desired."""
    route_class: int = field(default=0, compare=False)
    """What the route is for, as whoever desires it numbers that; 0 as read from the kernel, which does not know it."""
    hops: tuple[NextHop, ...] = ()
    """Several next hops: at least two, sorted, no two alike but for their weight. Empty: at most the one above."""
    source: Address | None = None
    """RTA_PREFSRC: which of its addresses this host itself sends from; None: the kernel takes one of the device's."""

    def next_hops(self) -> tuple[NextHop, ...]:
        """The several, or the one; none where packets end here."""
        if self.hops or (self.gateway is None and self.device is None):
            return self.hops
        return (NextHop(self.gateway, self.device, self.onlink),)

    def devices(self) -> frozenset[str]:
        """The interfaces by which packets leave."""
        if not self.hops:
            return frozenset() if self.device is None else frozenset((self.device,))
        return frozenset(hop.device for hop in self.hops if hop.device is not None)

    def through(self, hops: tuple[NextHop, ...]) -> RouteTarget:
        """This target with other next hops, at least one; a single one loses its weight, which then means nothing."""
        if len(hops) > 1:
            return replace(self, gateway=None, device=None, onlink=False, hops=hops)
        (only,) = hops
        return replace(self, gateway=only.gateway, device=only.device, onlink=only.onlink, hops=())


class _RouteFields(NamedTuple):
    key: RouteKey
    """Destination, table and metric."""
    target: RouteTarget
    """Where packets go, and how the route is marked."""


class Route(_RouteFields):
    """One route as the kernel keeps it: a key and a target, as cheap to make as a pair."""

    __slots__ = ()

    def __new__(
        cls,
        key: RouteKey,
        type: RouteType = RouteType.UNICAST,  # noqa: A002  # as in RouteTarget
        gateway: Address | None = None,
        device: str | None = None,
        protocol: int = RTPROT_BIRD,
        scope: Scope = Scope.UNIVERSE,
        *,
        onlink: bool = False,
        odd: bool = False,
        route_class: int = 0,
        hops: tuple[NextHop, ...] = (),
        source: Address | None = None,
    ) -> Route:
        """A route with a target of its own."""
        target = RouteTarget(type, gateway, device, protocol, scope, onlink, odd, route_class, hops, source)
        return tuple.__new__(cls, (key, target))

    @classmethod
    def from_target(cls, key: RouteKey, target: RouteTarget) -> Route:
        """A route to a target that others may share."""
        return tuple.__new__(cls, (key, target))

    @classmethod
    def of_targets(cls, keys: Iterable[RouteKey], targets: Iterable[RouteTarget]) -> Iterator[Route]:
        """`from_target` of very many."""
        return map(partial(tuple.__new__, cls), zip(keys, targets, strict=False))

    def with_(self, *, key: RouteKey | None = None, **changes: Any) -> Route:
        """This route with another key, or with these fields of its target changed."""
        return Route.from_target(key or self[0], replace(self[1], **changes))

    @property
    def type(self) -> RouteType:
        """As in the target, like all that follow."""
        return self[1].type

    @property
    def gateway(self) -> Address | None:
        """The next hop's address."""
        return self[1].gateway

    @property
    def device(self) -> str | None:
        """The interface's name; None with several next hops."""
        return self[1].device

    @property
    def protocol(self) -> int:
        """rtm_protocol."""
        return self[1].protocol

    def __str__(self) -> str:
        """The line that `ip route` prints for it; several next hops stand in that line, as ip(8) takes them."""
        key, destination = self.key, self.key.destination
        words = [] if self.type is RouteType.UNICAST else [self.type.name.lower()]
        words.append(str(destination.network_address) if key.is_host else str(destination))
        if not self.target.hops:
            words += NextHop(self.gateway, self.device).words(key.version)
        if self.protocol != RTPROT_BOOT:
            words.append(f"proto {protocol_name(self.protocol)}")
        if self.target.scope is Scope.LINK:
            words.append("scope link")
        if self.target.source is not None:
            words.append(f"src {self.target.source}")
        metric = key.metric or (IPV6_METRIC if key.version == 6 else 0)
        if metric:
            words.append(f"metric {metric}")
        if self.target.onlink:
            words.append("onlink")
        for hop in self.target.hops:
            words += ["nexthop", *hop.words(key.version), f"weight {hop.weight}"]
            words += ["onlink"] if hop.onlink else []
        return " ".join(words)


def targets_of(routes: Collection[Route]) -> dict[int, RouteTarget]:
    """The distinct targets of routes, by identity: very many routes share few."""
    targets = list(map(itemgetter(1), routes))
    return dict(zip(map(id, targets), targets, strict=True))


PROTOCOL_NAMES = {2: "kernel", 3: "boot", 4: "static", 11: "zebra", 12: "bird", 16: "dhcp", 186: "bgp"}
"""The names of /etc/iproute2/rt_protos that a node is likely to meet."""


def protocol_name(protocol: int) -> str:
    """An rtm_protocol as `ip route` prints it."""
    return PROTOCOL_NAMES.get(protocol, str(protocol))


class TunnelKind(Enum):
    """IFLA_INFO_KIND of the two tunnel devices."""

    IPIP = "ipip"
    VXLAN = "vxlan"


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A tunnel device. `kind`, `vni`, `port`, `parent`, `local` are immutable: a difference means delete and create."""

    name: str
    kind: TunnelKind
    mtu: int
    address: Address | None
    """The one /32 or /128 the device bears."""
    vni: int | None = None
    port: int | None = None
    parent: str | None = None
    local: Address | None = None
    mac: str | None = None
    offload: bool | None = None
    """Whether the device computes checksums; None: as it is."""
    up: bool = True
    """False is met, never desired; the same holds for the two below."""
    learning: bool = False
    strays: tuple[Address, ...] = ()
    """Addresses of the device's own version besides `address`, link-local ones left out."""

    def immutable_differences(self, other: Tunnel) -> tuple[str, ...]:
        """The attributes, with both values, for which `other` must be deleted before this one can be made."""
        names = ("kind", "vni", "port", "parent", "local")
        pairs = ((name, getattr(other, name), getattr(self, name)) for name in names)
        return tuple(
            f"{name} is {is_now}, should be {should}" for name, is_now, should in pairs if is_now != should
        )


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A permanent ARP or neighbour discovery entry."""

    device: str
    address: Address
    mac: str


@dataclass(frozen=True, slots=True)
class FdbEntry:
    """A permanent forwarding entry of a VXLAN device: frames to `mac` go to the VTEP at `remote`."""

    device: str
    mac: str
    remote: Address


@dataclass(frozen=True, slots=True)
class Sysctl:
    """A kernel setting; `name` is its path below /proc/sys."""

    name: str
    value: str


class AddressFlag(IntFlag):
    """IFA_FLAGS of linux/if_addr.h, as far as they say that an address is none to rely on."""

    TEMPORARY = 0x01
    """Of IPv6 (RFC 8981): another one takes its place within a day. For IPv4 the same bit says no such thing."""
    DUPLICATE = 0x08
    """IFA_F_DADFAILED: another machine on the link has it (RFC 4862), and this one does not use it."""
    DEPRECATED = 0x20
    """Its preferred lifetime is over: for connections that are there already."""


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """A rule of policy routing that is not the kernel's own: a fact, never desired."""

    version: int
    """Of IP."""
    priority: int
    text: str
    """What follows the priority in `ip rule`."""

    def __str__(self) -> str:
        """The line that `ip rule` prints for it."""
        return f"{self.priority}: {self.text}"


@dataclass(frozen=True, slots=True)
class Link:
    """An interface as the kernel has it: a fact, never desired."""

    index: int
    name: str
    kind: str | None
    mtu: int
    up: bool
    mac: str | None = None
    addresses: tuple[tuple[Address, int], ...] = ()
    """(address, prefix length)."""
    flagged: tuple[tuple[Address, AddressFlag], ...] = ()
    """Those of the addresses of which the kernel says more."""
    carrier: bool = True
    """Whether the medium below is there: a cable, the other end of a pair."""

    def flags(self, address: Address) -> AddressFlag:
        """What the kernel says of one of the addresses."""
        return next((flags for one, flags in self.flagged if one == address), AddressFlag(0))
