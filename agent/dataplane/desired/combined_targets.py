"""Several targets, each with its weight, as one with several next hops: what equal paths of BGP become.

Promises: pure; the order of the targets does not matter but for what the next hops are not about (protocol, scope,
class): that is the first one's whose routes are ours on any device. A next hop's share of the flows is its targets' as
nearly as 256 steps have it.
Does not know: which paths are equal, how a next hop was resolved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv6Address
from math import gcd, lcm

from agent.netlink.objects import MOST_WEIGHT, RTPROT_BOOT, NextHop, RouteTarget

MOST_NEXT_HOPS = 256
"""In one route, those with the most weight: more than BIRD (255) and FRR (256 at most) take."""


def combine(targets: Sequence[tuple[RouteTarget, int]]) -> RouteTarget:
    """One target through the next hops of all, given as (target, weight), at least one.

    A target that has several itself hands its weight on to them as they share it. What leads nowhere (a blackhole)
    counts only where nothing leads anywhere: the kernel takes none among several next hops (nh_check_attr_group).
    """
    leading = [(target, hops, weight) for target, weight in targets if (hops := target.next_hops())]
    if not leading:
        return targets[0][0]
    # A target's weight is divided by the sum of its next hops' without a remainder.
    whole = lcm(*(sum(hop.weight for hop in hops) for _, hops, _ in leading))
    shares = Counter[NextHop]()
    for _, hops, weight in leading:
        unit = whole // sum(hop.weight for hop in hops) * max(1, weight)
        for hop in hops:
            shares[_bare(hop)] += unit * hop.weight
    first = next((target for target, _, _ in leading if target.protocol != RTPROT_BOOT), leading[0][0])
    return first.through(_weighted(shares))


def _bare(hop: NextHop) -> NextHop:
    """Without its weight, and without the zone that its device says."""
    gateway = hop.gateway
    if isinstance(gateway, IPv6Address) and gateway.scope_id is not None:
        gateway = IPv6Address(int(gateway))
    return replace(hop, gateway=gateway, weight=1)


def _weighted(shares: Counter[NextHop]) -> tuple[NextHop, ...]:
    """The next hops with shares as the smallest weights that say the same, or nearly so where those are too large."""
    some = sorted(shares, key=lambda hop: (-shares[hop], hop))[:MOST_NEXT_HOPS]
    weights = _in_lowest_terms([shares[hop] for hop in some])
    if weights[0] > MOST_WEIGHT:  # the largest comes first
        rounded = [max(1, (2 * one * MOST_WEIGHT + weights[0]) // (2 * weights[0])) for one in weights]
        weights = _in_lowest_terms(rounded)
    return tuple(sorted(replace(hop, weight=one) for hop, one in zip(some, weights, strict=True)))


def _in_lowest_terms(weights: list[int]) -> list[int]:
    common = gcd(*weights)
    return [one // common for one in weights]
