"""The main tables' routes that are not this agent's, by prefix: what next hops are looked up in.

Strategy. A whole reading of the kernel is adopted piece by piece; between readings each notification is applied as it
comes. What came while the kernel was being read is applied once more behind the reading, which may be older.
Promises: pure but for its memory. Of a table with more than MOST_ROUTES foreign routes only those are held that are
around the addresses that matter; whatever a notification leaves open asks for a reading.
Does not know: which addresses matter, what a route is good for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import ip_network

from agent.dataplane.cooperative import PIECE, Work
from agent.dataplane.kernel.ownership import Ownership
from agent.netlink.objects import IPV6_METRIC, Address, Route, RouteKey

MOST_ROUTES = 50_000
"""Foreign routes that are all held, some 20 MB with what the kernel's picture has of them anyway. A host with more is
a router with a table of the Internet: of it only what is around a known next hop is held."""
MOST_WAITING = 10_000
"""Notifications that wait for the end of a reading; with more, another reading is asked for."""

Around = tuple[int, bytes]
"""A version of IP and a packed prefix, as in RouteKey."""
_By = dict[int, Route]
"""By metric."""


class ForeignRoutes:
    """The routes of one kernel that are not ours; a core with a memory."""

    def __init__(self, ownership: Ownership, is_near: Callable[[RouteKey], bool] = lambda _: False) -> None:
        """`is_near` answers whether a key is around an address that matters; asked only of a kernel with too many."""
        self._ownership = ownership
        self._is_near = is_near
        self._routes: dict[Around, _By] = {}
        self._lengths: dict[int, Counter[int]] = {4: Counter(), 6: Counter()}
        """How many prefixes there are of each length."""
        self._shared: set[RouteKey] = set()
        """Keys that more than one route has: which one is left when one goes is not known."""
        self._waiting: list[tuple[Route, bool, bool]] | None = None
        """What came since a reading began."""
        self.is_known = False
        """Whether the kernel was ever read."""
        self.is_whole = True
        """Whether all foreign routes are held, and not those around known addresses alone."""

    def __len__(self) -> int:
        return sum(map(len, self._routes.values()))

    def around(self, address: Address) -> Iterator[Route]:
        """The routes whose prefix holds an address: the longest first, of equal ones that of the lowest metric."""
        version, bits = address.version, address.max_prefixlen
        value = int(address)
        for length in sorted(self._lengths[version], reverse=True):
            if (found := self._routes.get((version, packed_prefix(value, length, bits)))) is not None:
                yield from (found[metric] for metric in sorted(found))

    def begin_reading(self) -> None:
        """The kernel's routes are being read from now on."""
        self._waiting = []

    def adopt(self, routes: Mapping[RouteKey, Route]) -> Work[bool]:
        """A reading is whole; whether it may be relied on: not when too much came meanwhile."""
        found: dict[Around, _By] = {}
        is_whole, count = True, 0
        ours = frozenset((self._ownership.learned, self._ownership.blackhole, self._ownership.datastore))
        for number, (key, route) in enumerate(routes.items(), 1):
            if number % PIECE == 0:
                yield
            if route[1].protocol in ours or self._ownership.is_ours(route):
                continue
            if is_whole or self._is_near(key):
                count += 1
                found.setdefault(key[:2], {})[_metric(key)] = route
            if is_whole and count > MOST_ROUTES:
                is_whole = False
                found = {one: some for one, some in found.items() if self._is_near(RouteKey.of_packed(*one))}
        waiting, self._waiting = self._waiting or [], None
        self._routes, self.is_whole, self.is_known = found, is_whole, True
        self._shared = set()
        self._lengths = {version: Counter(p[1][0] for p in found if p[0] == version) for version in (4, 6)}
        unclear = [self.change(one, gone=gone, appended=appended) for one, gone, appended in waiting]
        return not any(unclear) and len(waiting) <= MOST_WAITING

    def change(self, route: Route, *, gone: bool = False, appended: bool = False) -> bool:
        """Apply a notification; whether the kernel must be read to know what there is now."""
        if self._waiting is not None and len(self._waiting) <= MOST_WAITING:
            self._waiting.append((route, gone, appended))
        if not (self.is_whole or self._is_near(route.key)):
            return False
        if self._ownership.is_ours(route):
            # In the place of another's it has replaced that one.
            return not gone and not appended and self._displace(route)
        if gone:
            return self._remove(route)
        return self._put(route, appended=appended)

    def _put(self, route: Route, *, appended: bool) -> bool:
        prefix, metric = route.key[:2], _metric(route.key)
        some = self._routes.get(prefix)
        if some is None:
            some = self._routes[prefix] = {}
            self._lengths[prefix[0]][prefix[1][0]] += 1
        if appended and metric in some:
            # Of IPv4 the first stays in force; of IPv6 it gets one more next hop.
            self._shared.add(route.key)
            return route.key.version == 6
        some[metric] = route
        return self.is_whole and len(self._routes) > 2 * MOST_ROUTES

    def _remove(self, route: Route) -> bool:
        prefix, metric = route.key[:2], _metric(route.key)
        some = self._routes.get(prefix, {})
        known = some.get(metric)
        if known is None:
            return False
        if route.key in self._shared or known.target != route.target:
            return True
        self._delete(prefix, metric)
        # Router advertisements of several routers are routes with one key (ip6_route_add of RTF_ADDRCONF).
        return route.key.version == 6 and not route.key.length

    def _displace(self, route: Route) -> bool:
        prefix, metric = route.key[:2], _metric(route.key)
        if metric in self._routes.get(prefix, {}):
            if route.key in self._shared:
                return True
            self._delete(prefix, metric)
        return False

    def _delete(self, prefix: Around, metric: int) -> None:
        some = self._routes[prefix]
        del some[metric]
        if not some:
            del self._routes[prefix]
            lengths = self._lengths[prefix[0]]
            lengths[prefix[1][0]] -= 1
            if not lengths[prefix[1][0]]:
                del lengths[prefix[1][0]]

    @classmethod
    def of(cls, routes: Iterable[Route], ownership: Ownership | None = None) -> ForeignRoutes:
        """These, and no others."""
        made = cls(ownership or Ownership())
        for route in routes:
            made.change(route)
        made.is_known = True
        return made


def packed_prefix(value: int, length: int, bits: int) -> bytes:
    """The prefix of a length around the address of this number, packed as in RouteKey."""
    octets = (value >> (bits - length) << (bits - length)).to_bytes(bits // 8)
    return bytes((length,)) + octets[: (length + 7) // 8]


def connected_routes(subnets: Iterable[tuple[str, Address, int]]) -> Iterator[Route]:
    """The routes that the kernel makes for the addresses of links, given as (link, address, length)."""
    for name, address, length in subnets:
        if length < address.max_prefixlen:
            yield Route(RouteKey(ip_network(f"{address}/{length}", strict=False)), device=name, protocol=2)


def _metric(key: RouteKey) -> int:
    """As the kernel compares it."""
    return key.metric or (IPV6_METRIC if key.version == 6 else 0)
