"""How a next hop is reached: by the kernel's routes, as BIRD's recursive gateway and FRR's next-hop tracking.

The one rule (decisions 51 and 58). The longest route around the address decides, of equal ones that of the lowest
metric; its gateways become those of the routes behind the next hop, and a route without a gateway makes the next hop
its own. What BGP learned counts where its own next hop is on a link by the kernel's routes alone, and nothing else of
ours does: so none is resolved through itself, one step is enough, and no change of a best path changes how another is
reached. A hop whose interface is down or has no carrier is left out; where none is left the next route decides. What
resolves no more keeps its last way, with the reason, as long as its interface is up: whether the paths over it are used
is BGP's to say, and until it has said so their routes stay.
Promises: pure but for its memory. `resolutions` is the same object until some way is another one.
Does not know: how BGP decides, who asks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address, ip_network

from agent.dataplane.cooperative import Work
from agent.dataplane.inputs.direct_routes import DirectRoutes, LearnedHops, nothing_learned
from agent.dataplane.inputs.foreign_routes import ForeignRoutes, connected_routes
from agent.dataplane.kernel.dataplane_objects import host_links
from agent.dataplane.kernel.ownership import Ownership
from agent.netlink.objects import ADDRESS_OCTETS, Address, Link, NextHop, Route, RouteKey, RouteType

MOST_NEXT_HOPS = 16_384
"""Addresses that are followed, nodes and BGP next hops. The way of one beyond is that of when it was asked for."""
DEEP = 64
"""Prefixes around an address that are looked up one by one, rather than more prefixes than that for each address."""
OWN_ADDRESS = "it is this host's own address"
MAPPED = "it is an address of IPv4 in the form of IPv6, and no route of IPv6 is one to it"
NOTHING = "no route of this host leads there"


GatewayMove = tuple[tuple[NextHop, ...], tuple[NextHop, ...]]
"""What was reached by these hops is all reached by those."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """How an address is reached, or why not."""

    hops: tuple[NextHop, ...] = ()
    """One or several, sorted; empty: it is not reached."""
    why: str = ""
    """Why it does not resolve, a sentence about it; with hops: these are the last that were known."""
    by: Route | None = field(default=None, compare=False)
    """The route that decided, for people."""

    @property
    def devices(self) -> Iterator[str]:
        """The interfaces that lead there."""
        return (hop.device for hop in self.hops if hop.device is not None)


def resolve(
    address: Address, routes: ForeignRoutes, links: Mapping[str, Link], learned: DirectRoutes | None = None
) -> Resolution:
    """How an address is reached by these routes over these links, and by what was learned, if that is to count.

    Of a foreign and a learned route to one prefix the foreign one goes first: ours is not written beside it, or the
    host has it so on purpose.
    """
    if isinstance(address, IPv6Address) and address.is_link_local:
        return _on_its_link(address, links)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return Resolution(why=MAPPED)  # a default route of IPv6 is none to it
    if any(own == address for link in links.values() for own, _ in link.addresses):
        return Resolution(why=OWN_ADDRESS)
    why = NOTHING
    for route in routes.around(address) if learned is None else _both(address, routes, learned):
        if route.type is not RouteType.UNICAST:
            return Resolution(why=f"by the route `{route}` of this host packets go nowhere", by=route)
        found = [_to(address, one) for one in route.target.next_hops() if is_usable(links, one.device)]
        if found:
            return Resolution(_merged(found), by=route)
        if why == NOTHING:
            devices = sorted(route.target.devices())
            why = f"the route `{route}` of this host leads there, and {_state(links, devices)}"
    if learned is not None and why == NOTHING:
        why = learned.why_not(address) or NOTHING
    return Resolution(why=why)


def _both(address: Address, routes: ForeignRoutes, learned: DirectRoutes) -> Iterator[Route]:
    left = deque(learned.around(address))
    for route in routes.around(address):
        while left and left[0].key.length > route.key.length:
            yield left.popleft()
        yield route
    yield from left


def on_link(address: Address, routes: ForeignRoutes, links: Mapping[str, Link]) -> tuple[NextHop, ...]:
    """The way to an address that is on a link by these routes; nothing for any other."""
    hops = resolve(address, routes, links).hops
    return hops if is_direct(address, hops) else ()


def is_direct(address: Address, hops: Collection[NextHop]) -> bool:
    """Whether an address that is reached so is its own gateway."""
    return bool(hops) and all(hop.gateway is not None and int(hop.gateway) == int(address) for hop in hops)


def is_usable(links: Mapping[str, Link], device: str | None) -> bool:
    """Whether packets can leave by an interface."""
    link = links.get(device or "")
    return link is not None and link.up and link.carrier


def _on_its_link(address: IPv6Address, links: Mapping[str, Link]) -> Resolution:
    """A link-local address is on the link that its zone names (RFC 4007), and no route says so."""
    zone = address.scope_id
    if zone is None:
        return Resolution(why="it is link-local, and nothing says on which interface")
    if not is_usable(links, zone):
        return Resolution(why=_state(links, [zone]))
    return Resolution((NextHop(IPv6Address(int(address)), zone),))


def _to(address: Address, hop: NextHop) -> NextHop:
    return hop if hop.gateway is not None else NextHop(address, hop.device, hop.onlink, hop.weight)


def _merged(hops: Collection[NextHop]) -> tuple[NextHop, ...]:
    """In their order, without two that are alike; alone, a next hop has no weight."""
    if len(hops) == 1:
        return tuple(hop if hop.weight == 1 else replace(hop, weight=1) for hop in hops)
    found: dict[NextHop, int] = {}
    for hop in hops:
        alike = replace(hop, weight=1)
        found[alike] = found.get(alike, 0) + hop.weight
    if len(found) == 1:
        return tuple(found)
    return tuple(sorted(replace(hop, weight=weight) for hop, weight in found.items()))


def _state(links: Mapping[str, Link], devices: Iterable[str]) -> str:
    words = []
    for name in devices:
        link = links.get(name)
        state = "not there" if link is None else "without a carrier" if link.up else "down"
        words.append(f"{name} is {state}")
    return ", ".join(words) or "no interface is named there"


def _and_around(key: RouteKey) -> Iterator[RouteKey]:
    yield key
    yield from key.around()


class Resolutions:
    """How each address is reached, as of one moment; found when it is first asked for."""

    def __init__(
        self, find: Callable[[Address], Resolution], known: Mapping[Address, Resolution] | None = None
    ) -> None:
        self._find = find
        self.known: dict[Address, Resolution] = dict(known or {})

    def of(self, address: Address) -> Resolution:
        """The way to an address."""
        found = self.known.get(address)
        if found is None:
            found = self._find(address)
            if len(self.known) < MOST_NEXT_HOPS:
                self.known[address] = found
        return found

    @classmethod
    def by_links(cls, links: Mapping[str, Link], more: Iterable[Route] = ()) -> Resolutions:
        """As the kernel's own routes to the subnets of links have it, and these more routes."""
        subnets = ((name, *one) for name, link in links.items() for one in link.addresses)
        routes = ForeignRoutes.of([*connected_routes(subnets), *more])
        return cls(lambda address: resolve(address, routes, links))


class NextHopResolver:
    """Keeps `resolutions` right, from the kernel's routes as they are read and as they change, and from its links."""

    def __init__(self, ownership: Ownership) -> None:
        self._near: dict[tuple[int, int], dict[int, list[Address]]] = {}
        """Version and length -> prefix of that length, as a number -> the addresses in it that are followed."""
        self._routes = ForeignRoutes(ownership, self._is_near)
        self._implied = ForeignRoutes(ownership)
        """What follows from the links' addresses alone."""
        self._learned = self._direct(nothing_learned)
        self._indirect: set[Address] = set()
        """Of those that are followed the ones on no link: what was learned may lead to them."""
        self._all_links: Mapping[str, Link] = {}
        self._links: Mapping[str, Link] = {}
        self._good: dict[Address, tuple[NextHop, ...]] = {}
        """The last way of each address that resolved; of as many as are followed."""
        self.resolutions = Resolutions(self._find)
        self.changed: Callable[[], None] = lambda: None
        """Called when some way is another one."""
        self._taken = self.resolutions
        self._devices: frozenset[str | None] = frozenset()
        """Those of `leads_over`, as of the ways and their number below."""
        self._devices_of: Mapping[Address, Resolution] | None = None
        self._devices_count = 0

    @property
    def is_known(self) -> bool:
        """Whether the kernel's routes were read; before, the subnets of links are all that is known."""
        return self._routes.is_known

    def set_links(self, links: Mapping[str, Link]) -> bool:
        """The links are these; whether some way is another one now."""
        if links is self._all_links:
            return False
        self._all_links = links
        own = host_links(links)
        if own is self._links or own == self._links:
            return False
        self._links = own
        if not self.is_known:
            subnets = ((name, *one) for name, link in own.items() for one in link.addresses)
            self._implied = ForeignRoutes.of(connected_routes(subnets))
        return self._look_again()

    def leads_over(self, device: str) -> bool:
        """Whether a way leads, or led, over an interface, or an address of its link is followed."""
        known = self.resolutions.known
        if known is not self._devices_of or len(known) != self._devices_count:
            self._devices_of, self._devices_count = known, len(known)
            hops_known = (*(way.hops for way in known.values()), *self._good.values())
            self._devices = frozenset(hop.device for hops in hops_known for hop in hops)
            self._devices |= {one.scope_id for one in known if isinstance(one, IPv6Address)}
        return device in self._devices

    def begin_reading(self) -> None:
        """The kernel's routes are being read from now on."""
        self._routes.begin_reading()

    def adopt(self, routes: Mapping[RouteKey, Route]) -> Work[tuple[bool, bool]]:
        """The kernel's routes were read; whether that may be relied on, and whether some way is another one now."""
        is_sure = yield from self._routes.adopt(routes)
        return is_sure, self._look_again()

    def change(self, route: Route, *, gone: bool, appended: bool) -> tuple[bool, bool]:
        """A route came, changed or went; whether the kernel is to be read, and whether some way is another one now."""
        if not self.is_known:
            return False, False
        is_unclear = self._routes.change(route, gone=gone, appended=appended)
        concerned = self._inside(route.key)
        if not concerned:
            return False, False
        were_direct = not self._indirect.issuperset(concerned)
        is_changed = self._look_again(concerned)
        if were_direct or not self._indirect.issuperset(
            concerned
        ):  # what was learned through them may lead elsewhere
            self._learned.links_changed()
            is_changed = self._look_again(frozenset(self._indirect)) or is_changed
        return is_unclear, is_changed

    def set_learned(self, learned: LearnedHops) -> bool:
        """What BGP learned is asked for here from now on; whether some way is another one now."""
        self._learned = self._direct(learned)
        return self.learned_changed(None)

    def learned_changed(self, keys: Collection[RouteKey] | None) -> bool:
        """The paths of these keys are others, None: of any; whether some way is another one now."""
        concerned = self._indirect if keys is None else self._indirect_inside(keys)
        self._learned.paths_changed(concerned)
        return bool(concerned) and self._look_again(frozenset(concerned))

    def take_moves(self) -> tuple[GatewayMove, ...]:
        """The ways since the last call that all who had them left for one and the same other way.

        None where one follows on another, for then it matters which is carried out first.
        """
        before, self._taken = self._taken.known, self.resolutions
        now = self.resolutions.known
        if before is now or len(now) >= MOST_NEXT_HOPS:
            return ()
        left: dict[tuple[NextHop, ...], set[tuple[NextHop, ...]]] = {}
        for address, way in before.items():
            left.setdefault(way.hops, set()).add(now[address].hops if address in now else way.hops)
        found = ((was, next(iter(to))) for was, to in left.items() if was and len(to) == 1)
        moves = tuple((was, to) for was, to in found if to and to != was)
        return moves if {was for was, _ in moves}.isdisjoint(to for _, to in moves) else ()

    def track(self, addresses: Collection[Address]) -> bool:
        """Forget the ways of all others; whether the kernel is to be read, because of new ones too little is held."""
        new = [address for address in addresses if address not in self.resolutions.known]
        if len(self.resolutions.known) > 2 * len(addresses) + 64:
            wanted = set(addresses)
            self.resolutions.known = {
                one: way for one, way in self.resolutions.known.items() if one in wanted
            }
            self._good = {one: way for one, way in self._good.items() if one in wanted}
            self._forget(self._indirect - wanted)
            self._near = {}
        for address in new:
            self.resolutions.of(address)
        return bool(new) and not self._routes.is_whole

    def _is_near(self, key: RouteKey) -> bool:
        return bool(self._inside(key))

    def _inside(self, key: RouteKey) -> Collection[Address]:
        """The addresses that are followed in a prefix."""
        spare = 8 * ADDRESS_OCTETS[key.version] - key.length
        near = self._near.get((key.version, key.length))
        if near is None:
            near = self._near[key.version, key.length] = {}
            for one in self.resolutions.known:
                if one.version == key.version:
                    near.setdefault(int(one) >> spare, []).append(one)
        return near.get(int.from_bytes(key.octets) >> spare, ())

    def _indirect_inside(self, keys: Collection[RouteKey]) -> set[Address]:
        """Those that are on no link and inside any of very many prefixes; asked the way that is shorter."""
        if len(keys) <= DEEP * len(self._indirect):
            inside = {one for key in keys for one in self._inside(key)}
            return inside & self._indirect
        return {
            one
            for one in self._indirect
            if any(key in keys for key in _and_around(RouteKey(ip_network(one))))
        }

    def _direct(self, learned: LearnedHops) -> DirectRoutes:
        return DirectRoutes(learned, lambda address: on_link(address, self._now(), self._links))

    def _now(self) -> ForeignRoutes:
        return self._routes if self.is_known else self._implied

    def _find(self, address: Address) -> Resolution:
        self._near = {}
        way = self._resolve(address)
        if len(self.resolutions.known) >= MOST_NEXT_HOPS:
            self._forget((address,))  # nobody will say that it is another one
        return way

    def _forget(self, addresses: Collection[Address]) -> None:
        """What was learned is not followed for these."""
        self._learned.paths_changed(addresses)
        self._indirect.difference_update(addresses)

    def _resolve(self, address: Address) -> Resolution:
        way = resolve(address, self._now(), self._links)
        if is_direct(address, way.hops):
            self._forget((address,))
        else:
            self._indirect.add(address)
            way = resolve(address, self._now(), self._links, self._learned)
        if not way.hops:
            return self._held(address, way)
        if address in self._good or len(self._good) < MOST_NEXT_HOPS:
            self._good[address] = way.hops
        return way

    def _look_again(self, concerned: Collection[Address] | None = None) -> bool:
        """Resolve these, or all that are followed, again; whether some way is another one."""
        before = self.resolutions.known
        if concerned is None:
            self._learned.links_changed()
        found = {
            address: self._resolve(address)
            for address in (before if concerned is None else concerned)
            if address in before
        }
        if all(before[address] == way for address, way in found.items()):
            before.update(found)  # what is said of a way may be another route
            return False
        self.resolutions = Resolutions(self._find, {**before, **found})
        self.changed()
        return True

    def _held(self, address: Address, way: Resolution) -> Resolution:
        """The last way there was, as far as its interfaces are still up: without a carrier, too."""
        hops = self._good.get(address, ())
        up = [hop for hop in hops if (link := self._links.get(hop.device or "")) is not None and link.up]
        return Resolution(_merged(up), way.why, way.by)
