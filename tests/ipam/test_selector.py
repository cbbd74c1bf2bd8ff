"""The selector language and the choice of blocks: tables of what matches, errors with their place, orders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from ipaddress import ip_address, ip_network
from itertools import islice, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
        ("!" * 81 + "all()", False),
        (" \t", True),
        ("global()", True),
        ("!global( )", False),
        ("global == 'x'", False),
        ("rack notin {'z'}", True),
        ("rack not\tin{'r1'}", False),
        ("rack in{'r1',}", True),
        ("rack in {'r2', 'r1' , }", True),
        ("zone startswith 'eu'", True),
        ("zone starts\t with'eu'", True),
        ('zone endswith"1"', True),
        ("zone contains'-'", True),
        ("has(in) || has(rack)", True),
        ("in != 'in'", True),
        ("contains contains 'x'", False),
        ("rack=='r1'&&zone!='x'", True),
        ("rack == '\"'", False),
        ('kubernetes.io/os == "linux"', True),
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
        ("a starts 'x'", "expected '==', '!=', 'in'"),
        ("a not 'x'", "expected '==', '!=', 'in'"),
        ("a in {,}", "expected '}' at character 7"),
        ("a in {'x' 'y'}", "expected '}' at character 11"),
        ("a in {'x',,}", "expected '}' at character 11"),
        ("has (a)", "expected '==', '!=', 'in'"),
        ("all ()", "expected '==', '!=', 'in'"),
        ("all(a)", "expected ')' at character 5"),
        ("has('a')", "expected a label at character 5"),
        ("a == 'x", 'unexpected "\'" at character 6'),
        ("a == 'x'\n", "unexpected '\\n' at character 9"),
        ("a & b", "unexpected '&' at character 3"),
        ("a", "expected '==', '!=', 'in'"),
        ("()", "expected a label, all() or has(label) at character 2"),
        ("has(a) has(b)", "expected '&&', '||' or the end at character 8"),
        ("has(a) &&", "expected a label, all() or has(label) at character 10"),
        ("'x'", "expected a label"),
        ("(" * 80, "nested deeper than 50"),
        ("a" * (LONGEST_SELECTOR + 1), f"longer than {LONGEST_SELECTOR}"),
    ],
)
def test_an_error_says_what_was_expected_and_where(text: str, sentence: str) -> None:
    with pytest.raises(SelectorError) as refused:
        parse(text)
    assert sentence in str(refused.value)


Spelled = tuple[str, Callable[[Mapping[str, str]], bool]]
"""A selector as it may be spelled, and what it means."""
NAMES = st.sampled_from(["rack", "zone", "gpu", "missing", "all", "in", "not", "kubernetes.io/os"])
VALUES = st.sampled_from(["", "r1", "eu-1", "1", "e", "linux", "not in {"])
BLANK = st.sampled_from(["", " ", "\t", "  "])


@st.composite
def comparisons(draw: st.DrawFn) -> Spelled:
    name, value, blank = draw(NAMES), draw(VALUES), draw(BLANK)
    quoted = f"'{value}'" if draw(st.booleans()) else f'"{value}"'
    values = draw(st.lists(VALUES, max_size=3))
    inner = f",{blank}".join(f"'{one}'" for one in values) + (
        draw(BLANK) + "," if values and len(name) > 3 else ""
    )
    letters = {
        "contains": lambda labels: name in labels and value in labels[name],
        f"starts{blank}with": lambda labels: name in labels and labels[name].startswith(value),
        f"ends{blank}with": lambda labels: name in labels and labels[name].endswith(value),
    }
    sets = {
        "in": lambda labels: name in labels and labels[name] in values,
        f"not{blank}in": lambda labels: name not in labels or labels[name] not in values,
    }
    forms: list[Spelled] = [
        (f"has({blank}{name}{blank})", lambda labels: name in labels),
        (f"all({blank})", lambda _: True),
        (f"{name}{blank}=={blank}{quoted}", lambda labels: name in labels and labels[name] == value),
        (f"{name}{blank}!={blank}{quoted}", lambda labels: name not in labels or labels[name] != value),
        *((f"{name} {word}{blank}{quoted}", match) for word, match in letters.items()),
        *((f"{name} {word}{blank}{{{blank}{inner}}}", match) for word, match in sets.items()),
    ]
    return draw(st.sampled_from(forms))


@st.composite
def _joined(draw: st.DrawFn, parts: st.SearchStrategy[Spelled]) -> Spelled:
    (one, first), (two, second), blank = draw(parts), draw(parts), draw(BLANK)
    forms: list[Spelled] = [
        (f"!{blank}({one})", lambda labels: not first(labels)),
        (f"({one}){blank}&&{blank}({two})", lambda labels: first(labels) and second(labels)),
        (f"({one}){blank}||{blank}{two}", lambda labels: first(labels) or second(labels)),
    ]
    return draw(st.sampled_from(forms))


LABEL_SETS: list[Mapping[str, str]] = [{}, LABELS, {"in": "e", "not": "1"}, {"rack": "", "zone": "eu-1"}]


@given(st.recursive(comparisons(), _joined, max_leaves=6))
@settings(max_examples=400)
def test_every_spelling_means_what_calicos_parser_takes_it_for(spelled: Spelled) -> None:
    text, meaning = spelled
    selector = parse(text)
    assert [selector.matches(labels) for labels in LABEL_SETS] == [meaning(labels) for labels in LABEL_SETS]


@given(st.text(alphabet="ab()!=&|{},'\" \tinotswihtcheal", max_size=30))
@settings(max_examples=400)
def test_any_text_is_a_selector_or_is_refused_in_a_sentence(text: str) -> None:
    with suppress(SelectorError):
        parse(text).matches(LABELS)


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
