"""Targets with weights become one target with several next hops."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from ipaddress import IPv4Address, IPv6Address
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.dataplane.desired.combined_targets import MOST_NEXT_HOPS, combine
from agent.netlink.objects import RTPROT_BOOT, NextHop, RouteTarget, RouteType

A, B, C = (NextHop(IPv4Address(f"172.26.0.{last}"), "eth0") for last in (2, 3, 4))
ZONED = NextHop(IPv6Address("fe80::1%eth1"), "eth1")
BLACKHOLE = RouteTarget(RouteType.BLACKHOLE)


def to(*hops: NextHop) -> RouteTarget:
    return RouteTarget(protocol=80).through(hops)


@pytest.mark.parametrize(
    ("targets", "hops"),
    [
        pytest.param([(to(A), 7)], [A], id="one is as it was, its weight means nothing"),
        pytest.param([(to(B), 1), (to(A), 1)], [A, B], id="two, sorted"),
        pytest.param([(to(A), 40), (to(B), 20)], [replace(A, weight=2), B], id="weights in lowest terms"),
        pytest.param([(to(A), 1), (to(A), 2)], [A], id="twice the same is one"),
        pytest.param(
            [(to(A, B), 1), (to(B), 1), (to(C), 1)],
            [A, replace(B, weight=3), replace(C, weight=2)],
            id="what several share is handed on, and equal ones add up",
        ),
        pytest.param(
            [(to(replace(A, weight=3), B), 2), (to(C), 1)],
            [replace(A, weight=3), B, replace(C, weight=2)],
            id="as they share it",
        ),
        pytest.param(
            [(to(A), 10_000_000_000), (to(B), 5_000_000_000 + 1), (to(C), 1)],
            [replace(A, weight=256), replace(B, weight=128), C],
            id="weights too large are reduced, none to nothing",
        ),
        pytest.param([(BLACKHOLE, 1), (to(A), 1), (to(B), 1)], [A, B], id="a blackhole is no next hop"),
        pytest.param(
            [(to(ZONED), 1), (to(A), 0)],
            [A, NextHop(IPv6Address("fe80::1"), "eth1")],
            id="families crossed, the device says the zone; a weight of nothing is the least",
        ),
    ],
)
def test_targets_become_one(targets: list[tuple[RouteTarget, int]], hops: list[NextHop]) -> None:
    found = combine(targets)
    assert found.next_hops() == tuple(hops)
    assert found == to(*hops)


def test_a_mixture_of_a_tunnel_and_the_underlay_is_ours_on_any_device() -> None:
    tunnelled = replace(to(A), protocol=RTPROT_BOOT)
    assert combine([(tunnelled, 1), (to(B), 1)]).protocol == 80
    assert combine([(tunnelled, 1), (replace(to(B), protocol=RTPROT_BOOT), 1)]).protocol == RTPROT_BOOT


def test_where_nothing_leads_anywhere_the_first_holds() -> None:
    assert combine([(BLACKHOLE, 1), (BLACKHOLE, 3)]) is BLACKHOLE


def test_of_too_many_next_hops_those_of_least_weight_are_left_out() -> None:
    many = [NextHop(IPv4Address(0x0A000000 + number), "eth0") for number in range(MOST_NEXT_HOPS + 9)]
    found = combine([(to(hop), 2 if number < 9 else 3) for number, hop in enumerate(many)])
    assert found.hops == tuple(many[9:])


some_hops = st.builds(
    NextHop,
    st.integers(0, 5).map(IPv4Address) | st.integers(0, 2).map(IPv6Address),
    st.sampled_from(["eth0", "eth1"]),
    st.booleans(),
    st.integers(1, 256),
)
ways = st.lists(
    some_hops, min_size=1, max_size=4, unique_by=lambda hop: (hop.gateway, hop.device, hop.onlink)
).map(lambda hops: to(*sorted(hops)))
weighted = st.lists(st.tuples(ways, st.integers(1, 2**32)), min_size=1, max_size=6)


def shares(targets: list[tuple[RouteTarget, int]]) -> dict[NextHop, Fraction]:
    whole, found = sum(weight for _, weight in targets), dict[NextHop, Fraction]()
    for target, weight in targets:
        hops = target.next_hops()
        for hop in hops:
            part = Fraction(weight * hop.weight, whole * sum(one.weight for one in hops))
            bare = replace(hop, weight=1)
            found[bare] = found.get(bare, Fraction(0)) + part
    return found


@given(weighted)
@settings(derandomize=True, max_examples=200)
def test_next_hops_are_sorted_different_and_share_as_their_targets_do(
    targets: list[tuple[RouteTarget, int]],
) -> None:
    found, exact = combine(targets), shares(targets)
    hops = found.next_hops()
    assert list(hops) == sorted(hops)
    assert [replace(hop, weight=1) for hop in hops] == sorted(exact)
    assert (found.hops == ()) == (len(exact) == 1)
    most = max(exact.values())
    for hop in found.hops:
        assert 1 <= hop.weight <= 256
        # In steps of the 256th part of the largest share; the least is one step.
        due = exact[replace(hop, weight=1)] / most * max(one.weight for one in found.hops)
        assert abs(hop.weight - due) <= 1


@given(weighted, st.integers(1, 1000), st.randoms(use_true_random=False))
@settings(derandomize=True, max_examples=100)
def test_neither_order_nor_a_common_factor_matters(
    targets: list[tuple[RouteTarget, int]], factor: int, random: Random
) -> None:
    other = [(target, weight * factor) for target, weight in targets]
    random.shuffle(other)
    assert combine(other) == combine(targets)
    assert combine([(combine(targets), 5)]) == combine(targets)
