"""Prefix filter: which prefixes and next hops are believed at all, before any rule of policy (RFC 7454 section 6).

Promises: pure; a filter is a value, so two can be compared; `compiled` makes it ready for one family. A look-up there
makes no address and costs a few comparisons of octets, however many networks are named. The reason names the network.
Does not know: why a network is named, who announced a prefix.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from bgp.wire.families import Address, Family, Prefix, family_of
from bgp.wire.nlri import LONGEST, Nlri, pack, spans, truncated

Named = tuple[Prefix, str]
"""A network, and what it is: the reason of a refusal."""
SHORTEST_PREFIX = 8
"""A shorter prefix is a default route or a part of one (0.0.0.0/1, 2000::/3): no registry ever gave one away."""


@dataclass(frozen=True, slots=True)
class PrefixFilter:
    """Asked in the order of its fields; the first that decides does. Without any, everything is accepted."""

    never: tuple[Named, ...] = ()
    """What lies in one of these is refused, whatever the fields behind say."""
    accepted: tuple[Prefix, ...] = ()
    """What lies in one of these is accepted."""
    refused: tuple[Named, ...] = ()
    """What lies in one of these is refused."""
    addresses: tuple[tuple[Address, str], ...] = ()
    """A prefix that holds one of these is refused, unless it is shorter than SHORTEST_PREFIX."""
    within: tuple[Prefix, ...] | None = None
    """Only what lies in one of these is accepted; None: anything."""
    outside: str = "lies in no network that is accepted"
    """The reason of what does not."""
    next_hops: tuple[Named, ...] = ()
    """A next hop in one of these is refused."""
    likely: tuple[Prefix, ...] = ()
    """Where very many prefixes lie: this decides nothing, it makes deciding on them cheap."""

    def compiled_next_hops(self) -> Callable[[Address], str] | None:
        """A function that says why a next hop is not believed (empty: it is); None where every one is."""
        if not self.next_hops:
            return None
        inside = {LONGEST[family]: _inside(self.next_hops, family) for family in Family}

        def refusal(next_hop: Address) -> str:
            length = next_hop.max_prefixlen
            what = inside[length](next_hop.packed, length)
            return f"NEXT_HOP {next_hop} is {what}" if what else ""

        return refusal

    def compiled(self, family: Family) -> Refusal | None:
        """The filter ready for one family: a function; None where it accepts everything."""
        if not (self.never or self.refused or self.addresses or self.within is not None):
            return None
        decide, hosts = self._decision(family), _hosts(self.never, family)
        clean = _apart((one, "") for one in self._clean() if family_of(one) is family)
        if not clean:
            return decide
        firsts = [first for first, *_ in clean]
        ends = [(last, shortest) for _, last, shortest, _ in clean]

        def refusal(prefix: Nlri) -> str:
            octets = prefix[1:]
            at = bisect_right(firsts, octets)
            if at:
                last, shortest = ends[at - 1]
                if octets <= last and prefix[0] >= shortest:
                    return hosts.get(prefix, "")
            return decide(prefix)

        return refusal

    def compiled_for_many(self, family: Family) -> Callable[[Collection[Nlri]], bool]:
        """A function that says of many prefixes at once that all are accepted; False: each has to be asked."""
        if self.compiled(family) is None:
            return lambda prefixes: True
        hosts = _hosts(self.never, family)
        clean = _apart((one, "") for one in self._clean() if family_of(one) is family)
        firsts = [first for first, *_ in clean]

        def are_accepted(prefixes: Collection[Nlri]) -> bool:
            for length, first, last in spans(prefixes):
                at = bisect_right(firsts, first)
                if not at or last > clean[at - 1][1] or length < clean[at - 1][2]:
                    return False
            return hosts.keys().isdisjoint(prefixes)

        return are_accepted

    def _clean(self) -> Iterator[Prefix]:
        """Networks in which everything is accepted but for single addresses in `never`."""
        named = [one for one, _ in self.never if one.prefixlen < one.max_prefixlen]
        named += [one for one, _ in self.refused]
        for network in self.likely if self.within is None else self.within:
            is_met = any(one.version == network.version and one.overlaps(network) for one in named)
            if not is_met and not any(address in network for address, _ in self.addresses):
                yield network

    def _decision(self, family: Family) -> Refusal:
        never, refused = _inside(self.never, family), _inside(self.refused, family)
        accepted = _inside(((one, "accepted") for one in self.accepted), family)
        within = _inside(((one, "within") for one in self.within or ()), family)
        holds = _holding(self.addresses, family)
        is_bounded, outside = self.within is not None, self.outside

        def decide(prefix: Nlri) -> str:
            octets, length = prefix[1:], prefix[0]
            if why := never(octets, length):
                return why
            if accepted(octets, length):
                return ""
            if (why := refused(octets, length)) or (why := holds(prefix)):
                return why
            return outside if is_bounded and not within(octets, length) else ""

        return decide


ACCEPT_ALL = PrefixFilter()
Refusal = Callable[[Nlri], str]
"""Why a prefix is refused; empty: it is accepted."""
_Inside = Callable[[bytes, int], str]


def _hosts(named: Iterable[Named], family: Family) -> dict[Nlri, str]:
    """The single addresses among these."""
    longest = LONGEST[family]
    return {pack(one): what for one, what in named if family_of(one) is family and one.prefixlen == longest}


def _apart(named: Iterable[Named]) -> list[tuple[bytes, bytes, int, str]]:
    """(octets, last address, length, text) of networks of one family in the order of their octets.

    Networks inside of others are left out, so those that remain are apart.
    """
    apart: list[tuple[bytes, bytes, int, str]] = []
    for network, what in sorted(named, key=lambda one: _order(one[0])):
        first, last = pack(network)[1:], network.broadcast_address.packed
        if not apart or last > apart[-1][1]:
            apart.append((first, last, network.prefixlen, what))
    return apart


def _inside(named: Iterable[Named], family: Family) -> _Inside:
    """A function that says in which network a prefix (octets, length) lies, as its text; empty: in none.

    A packed prefix has only the octets that its length needs, and bytes compare like addresses: the one network that
    can hold it is the last that does not begin behind it.
    """
    apart = _apart(one for one in named if family_of(one[0]) is family)
    if not apart:
        return lambda octets, length: ""
    firsts = [first for first, *_ in apart]

    def inside(octets: bytes, length: int) -> str:
        at = bisect_right(firsts, octets) - 1
        if at < 0:
            return ""
        _, last, shortest, what = apart[at]
        return what if octets <= last and length >= shortest else ""

    return inside


def _order(network: Prefix) -> tuple[int, int]:
    return int(network.network_address), network.prefixlen


def _holding(named: Iterable[tuple[Address, str]], family: Family) -> Callable[[Nlri], str]:
    """A function that says which address a prefix holds, as its text; empty: none."""
    known = dict(sorted((address.packed, what) for address, what in named if family_of(address) is family))
    addresses, longest = list(known), bytes((LONGEST[family],))
    if not addresses:
        return lambda prefix: ""

    def holds(prefix: Nlri) -> str:
        at = bisect_left(
            addresses, prefix[1:]
        )  # what a prefix holds begins with, or right behind, its octets
        if at == len(addresses) or prefix[0] < SHORTEST_PREFIX:
            return ""
        address = addresses[at]
        return known[address] if truncated(longest + address, prefix[0]) == prefix else ""

    return holds
