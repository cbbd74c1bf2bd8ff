"""The prefix filter decides as its fields say, in their order, and as a look at addresses would."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgp.policy.prefix_filter import ACCEPT_ALL, SHORTEST_PREFIX, PrefixFilter
from bgp.wire.families import Family, Prefix, family_of
from bgp.wire.nlri import pack

EXAMPLE = PrefixFilter(
    never=((ip_network("127.0.0.0/8"), "loopback"), (ip_network("10.0.0.7/32"), "our own")),
    accepted=(ip_network("172.30.0.0/16"),),
    refused=((ip_network("172.16.0.0/12"), "a link"),),
    addresses=((ip_address("10.1.1.1"), "etcd"), (ip_address("fd00::1"), "etcd 6")),
    within=tuple(map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "fd00::/16"))),
    outside="nowhere",
)


def refusal(one: PrefixFilter, prefix: Prefix) -> str:
    found = one.compiled(family_of(prefix))
    return found(pack(prefix)) if found is not None else ""


@pytest.mark.parametrize(
    ("prefix", "why"),
    [
        ("127.1.2.3/32", "loopback"),
        ("10.0.0.7/32", "our own"),
        ("10.0.0.0/26", ""),
        ("172.30.5.0/24", ""),
        ("172.26.0.0/26", "a link"),
        ("172.16.0.0/12", "a link"),
        ("172.0.0.0/8", "nowhere"),
        ("10.1.1.1/32", "etcd"),
        ("10.1.0.0/16", "etcd"),
        ("10.0.0.0/8", "etcd"),
        ("10.1.1.2/32", ""),
        ("8.8.8.0/24", "nowhere"),
        ("0.0.0.0/0", "nowhere"),
        ("0.0.0.0/1", "nowhere"),
        ("fd00:0:1::/64", ""),
        ("fd00::/64", "etcd 6"),
        ("fd01::/64", "nowhere"),
        ("::/0", "nowhere"),
    ],
)
def test_the_first_field_that_decides_gives_the_reason(prefix: str, why: str) -> None:
    assert refusal(EXAMPLE, ip_network(prefix)) == why


def test_a_filter_without_any_word_accepts_everything_and_costs_nothing() -> None:
    assert [ACCEPT_ALL.compiled(family) for family in Family] == [None, None]


def test_a_default_route_and_parts_of_one_hold_no_address() -> None:
    one = PrefixFilter(addresses=((ip_address("10.1.1.1"), "etcd"),))
    assert refusal(one, ip_network("0.0.0.0/0")) == refusal(one, ip_network("0.0.0.0/1")) == ""
    assert refusal(one, ip_network("10.0.0.0/8")) == "etcd"


def test_a_next_hop_in_a_named_network_is_refused() -> None:
    one = PrefixFilter(next_hops=((ip_network("192.168.0.0/16"), "in the pods' network"),))
    refused = one.compiled_next_hops()
    assert refused is not None
    assert refused(ip_address("192.168.3.4")) == "NEXT_HOP 192.168.3.4 is in the pods' network"
    assert refused(ip_address("10.0.0.1")) == refused(ip_address("fd00::1")) == ""
    assert ACCEPT_ALL.compiled_next_hops() is None


few = st.integers(0, 7)


@st.composite
def prefixes(draw: st.DrawFn) -> Prefix:
    """Near each other, so that they meet: in the first and the last octets of addresses of both versions."""
    if draw(st.booleans()):
        number = draw(few) << 29 | draw(few) << 20 | draw(few)
        return IPv4Network((number, draw(st.sampled_from((0, 1, 3, 8, 9, 12, 20, 30, 31, 32)))), strict=False)
    number = draw(few) << 125 | draw(few) << 64 | draw(few)
    return IPv6Network((number, draw(st.sampled_from((0, 1, 3, 8, 64, 126, 128)))), strict=False)


named = st.lists(prefixes().map(lambda one: (one, "named")), max_size=6).map(tuple)
hosts = prefixes().map(lambda one: (one.network_address, "held"))
filters = st.builds(
    PrefixFilter,
    never=named,
    accepted=st.lists(prefixes(), max_size=2).map(tuple),
    refused=named,
    addresses=st.lists(hosts, max_size=4).map(tuple),
    within=st.none() | st.lists(prefixes(), max_size=3).map(tuple),
    outside=st.just("outside"),
    likely=st.lists(prefixes(), max_size=3).map(tuple),
)


def lies_in(prefix: Prefix, network: Prefix) -> bool:
    return prefix.version == network.version and prefix.subnet_of(network)  # type: ignore[arg-type]


def is_refused(one: PrefixFilter, prefix: Prefix) -> bool:
    """The same, said with addresses."""
    if any(lies_in(prefix, network) for network, _ in one.never):
        return True
    if any(lies_in(prefix, network) for network in one.accepted):
        return False
    if any(lies_in(prefix, network) for network, _ in one.refused):
        return True
    if prefix.prefixlen >= SHORTEST_PREFIX and any(address in prefix for address, _ in one.addresses):
        return True
    return one.within is not None and not any(lies_in(prefix, network) for network in one.within)


@settings(max_examples=400, deadline=None)
@given(filters, st.lists(prefixes(), min_size=1, max_size=8))
def test_octets_are_compared_as_addresses_would_be(one: PrefixFilter, some: list[Prefix]) -> None:
    for prefix in some:
        assert bool(refusal(one, prefix)) == is_refused(one, prefix), prefix


@given(
    st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)), min_size=1, max_size=8), st.booleans()
)
def test_many_prefixes_are_accepted_at_once_only_where_each_is(
    some: list[tuple[int, int]], is_small: bool
) -> None:
    """Most octets are put near a network's beginning, where an end of it is met."""
    base = 0x0A000000 if is_small else 0
    prefixes = [
        IPv4Network((base + (octets >> (12 if is_small else 0)), length), strict=False)
        for octets, length in some
    ]
    if EXAMPLE.compiled_for_many(Family.IPV4)([pack(one) for one in prefixes]):
        assert [refusal(EXAMPLE, one) for one in prefixes] == [""] * len(prefixes)


def test_many_prefixes_of_one_clean_network_are_accepted_at_once() -> None:
    clean = PrefixFilter(
        within=(ip_network("192.168.0.0/16"),), never=((ip_network("192.168.0.7/32"), "own"),)
    )
    are_accepted = clean.compiled_for_many(Family.IPV4)
    some = [pack(ip_network(f"192.168.{number}.0/{24 + number % 3}")) for number in range(99)]
    assert are_accepted(some)
    assert not are_accepted([*some, pack(ip_network("192.168.0.7/32"))])
    assert not are_accepted([*some, pack(ip_network("192.0.0.0/8"))])
