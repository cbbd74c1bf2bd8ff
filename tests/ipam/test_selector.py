"""The selector language and the choice of blocks: tables of what matches, errors with their place, orders."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from itertools import islice, pairwise

import pytest

from ipam.allocation.pool_selection import aligned_block, blocks_in_order, fnv1
from ipam.model import NodeName, Pool, PoolRecord
from ipam.selector import LONGEST_SELECTOR, SelectorError, parse

LABELS = {"rack": "r1", "zone": "eu-1", "gpu": "", "kubernetes.io/os": "linux"}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("all()", True),
        ("!all()", False),
        ("rack == 'r1'", True),
        ('rack == "r2"', False),
        ("rack != 'r2'", True),
        ("missing != 'x'", True),
        ("missing == 'x'", False),
        ("has(gpu)", True),
        ("!has(missing)", True),
        ("has( kubernetes.io/os )", True),
        ("rack in {'r1', 'r2'}", True),
        ("rack in { }", False),
        ("rack not in {'r1'}", False),
        ("missing not in {'r1'}", True),
        ("zone contains 'u-'", True),
        ("zone starts with 'eu'", True),
        ("zone ends with '2'", False),
        ("missing contains ''", False),
        ("rack == 'r2' || has(gpu) && zone == 'eu-1'", True),
        ("(rack == 'r2' || has(gpu)) && zone == 'eu-2'", False),
        ("!(rack == 'r1')", False),
        ("! ! has(gpu)", True),
        ("all == 'x'", False),
    ],
)
def test_a_selector_matches_as_calicos_does(text: str, matches: bool) -> None:
    assert parse(text).matches(LABELS) is matches


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("rack = 'r1'", "unexpected '=' at character 6"),
        ("rack ==", "expected a quoted value at character 8, found the end"),
        ("rack == r1", "expected a quoted value at character 9, found r1"),
        ("rack ~ 'x'", "unexpected '~' at character 6"),
        ("rack like 'x'", "expected '==', '!=', 'in'"),
        ("has(", "expected a label at character 5"),
        ("has(a", "expected ')' at character 6"),
        ("(has(a)", "expected ')' at character 8"),
        ("a in {'x'", "expected '}' at character 10"),
        ("a in 'x'", "expected '{' at character 6"),
        ("a starts 'x'", "expected 'with' at character 10"),
        ("has(a) has(b)", "expected '&&', '||' or the end at character 8"),
        ("has(a) &&", "expected a label, all() or has(label) at character 10"),
        ("'x'", "expected a label"),
        ("!" * 80 + "all()", "nested deeper than 50"),
        ("(" * 80, "nested deeper than 50"),
        ("a" * (LONGEST_SELECTOR + 1), "longer than 4096"),
    ],
)
def test_an_error_says_what_was_expected_and_where(text: str, sentence: str) -> None:
    with pytest.raises(SelectorError) as refused:
        parse(text)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(("name", "value"), [("", 0x811C9DC5), ("a", 0x050C5D7E), ("foobar", 0x31F0B262)])
def test_the_hash_is_fnv_1_and_not_1a(name: str, value: int) -> None:
    assert fnv1(name) == value


def record(cidr: str, length: int) -> PoolRecord:
    return PoolRecord(Pool("p", ip_network(cidr), length), "/p", 1)


@pytest.mark.parametrize(
    ("cidr", "length", "count"), [("10.0.0.0/24", 26, 4), ("10.0.0.0/26", 26, 1), ("fd00::/116", 122, 64)]
)
def test_every_block_comes_once_from_the_nodes_own_place_on(cidr: str, length: int, count: int) -> None:
    order = list(blocks_in_order(record(cidr, length), NodeName("n1")))
    assert len(set(order)) == len(order) == count
    assert all(block.subnet_of(ip_network(cidr)) for block in order)  # type: ignore[arg-type]
    assert order == list(blocks_in_order(record(cidr, length), NodeName("n1")))
    turns = sum(int(second.network_address) < int(first.network_address) for first, second in pairwise(order))
    assert turns <= 1


def test_nodes_start_far_apart_even_in_an_endless_pool() -> None:
    starts = {
        next(blocks_in_order(record("10.0.0.0/16", 26), NodeName(f"n{number}"))) for number in range(32)
    }
    assert len(starts) > 25
    assert len(list(islice(blocks_in_order(record("fd00::/64", 122), NodeName("n")), 100))) == 100


def test_the_block_of_an_address_is_aligned() -> None:
    assert aligned_block(record("10.0.0.0/24", 26).pool, ip_address("10.0.0.77")) == ip_network(
        "10.0.0.64/26"
    )
    assert aligned_block(record("fd00::/64", 122).pool, ip_address("fd00::1:41")) == ip_network(
        "fd00::1:40/122"
    )
