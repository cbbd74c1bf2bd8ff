"""Interval sets both ways, and the table's bytes as messages."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, collapse_addresses

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.dataplane.kernel import masquerade_table
from agent.dataplane.kernel.dataplane_objects import Masquerade
from agent.netlink import nftables
from agent.netlink.rtnetlink import HEADER, messages

networks = st.builds(
    lambda number, length: IPv4Network((number, length), strict=False),
    st.integers(0, 2**32 - 1) | st.sampled_from([0, 2**32 - 1, 10 << 24]),
    st.integers(0, 32) | st.integers(0, 4),
)


@given(st.frozensets(networks, max_size=8))
@settings(derandomize=True, max_examples=200)
def test_any_networks_survive_the_interval_form(found: frozenset[IPv4Network]) -> None:
    edges = masquerade_table.edges(found)
    assert masquerade_table.networks_of(reversed(edges)) == frozenset(collapse_addresses(found))
    assert edges == sorted(edges)
    assert len({value for value, _ in edges}) == len(edges)


wide = st.builds(
    lambda number, length: IPv6Network((number, length), strict=False),
    st.integers(0, 2**128 - 1) | st.sampled_from([0, 2**128 - 1, 0xFD << 120]),
    st.integers(0, 128) | st.integers(0, 4),
)


@given(st.frozensets(wide, max_size=8))
@settings(derandomize=True, max_examples=100)
def test_ipv6_networks_survive_it_too_and_their_bytes(found: frozenset[IPv6Network]) -> None:
    edges: list[tuple[int, bool]] = []
    for data in masquerade_table._elements(masquerade_table.IP6, "all-pools", 1, found):
        edges += masquerade_table.decode_elements(data, HEADER.size, len(data))
    assert edges == masquerade_table.edges(found, masquerade_table.IP6)
    assert masquerade_table.networks_of(edges, masquerade_table.IP6) == frozenset(collapse_addresses(found))


def test_a_desired_is_cut_by_version_and_a_version_without_sources_has_no_table() -> None:
    four, six = IPv4Network("10.1.0.0/16"), IPv6Network("fd10::/48")
    both = Masquerade(frozenset({four}), frozenset({four, six}))
    assert both.of_version(4) == Masquerade(frozenset({four}), frozenset({four}))
    assert both.of_version(6) == Masquerade()
    assert both.collapsed() == both.of_version(4)


@given(st.frozensets(networks, max_size=8))
@settings(derandomize=True, max_examples=50)
def test_elements_are_read_back_from_their_bytes(found: frozenset[IPv4Network]) -> None:
    edges: list[tuple[int, bool]] = []
    for data in masquerade_table._elements(masquerade_table.IP, "all-pools", 1, found):
        edges += masquerade_table.decode_elements(data, HEADER.size, len(data))
    assert edges == masquerade_table.edges(found)


def test_a_large_set_is_cut_into_messages_that_fit_their_length_field() -> None:
    many = [IPv4Network(((10 << 24) + (i << 7), 26)) for i in range(10_000)]
    parts = masquerade_table._elements(masquerade_table.IP, "all-pools", 1, many)
    assert len(parts) > 1
    assert all(len(part) < 1 << 16 for part in parts)


def test_a_replacement_is_one_batch_that_deletes_before_it_adds() -> None:
    pool = frozenset({IPv4Network("10.1.0.0/16")})
    data = b"".join(masquerade_table.replacement(Masquerade(pool, pool)))
    kinds = [found.type for found in messages(data)]
    table = [nftables.NEWTABLE, nftables.DELTABLE, nftables.NEWTABLE]
    sets = [nftables.NEWSET, nftables.NEWSETELEM] * 2
    assert kinds == [16, *table, *sets, nftables.NEWCHAIN, nftables.NEWRULE, 17]


def test_an_empty_desired_only_deletes() -> None:
    kinds = [found.type for found in messages(b"".join(masquerade_table.replacement(Masquerade())))]
    assert kinds == [16, nftables.NEWTABLE, nftables.DELTABLE, 17]


def test_a_rule_is_told_by_its_expressions() -> None:
    data = masquerade_table._rule(masquerade_table.IP)
    assert masquerade_table.decode_rule(data, HEADER.size, len(data)) == masquerade_table.RULE_SHAPE


def test_only_what_names_our_table_concerns_masquerading() -> None:
    ours = masquerade_table._rule(masquerade_table.IP)
    theirs = ours.replace(b"tortie\0", b"docker\0")
    assert [
        masquerade_table.concerns_masquerading(data, next(messages(data))) for data in (ours, theirs)
    ] == [
        True,
        False,
    ]
    begin = masquerade_table.replacement(Masquerade())[0]
    assert not masquerade_table.concerns_masquerading(begin, next(messages(begin)))
