"""Policies: what each condition matches, what each operation changes, which rule decides."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.policy.policy import (
    LARGEST_LOCAL_PREF,
    Action,
    AddCommunity,
    Candidate,
    CompiledPolicy,
    InterfaceMatch,
    Operation,
    Operator,
    Policy,
    PolicyResult,
    PrefixMatch,
    PrependAs,
    Rule,
    SetPriority,
    priority_of,
)
from bgp.wire import nlri
from bgp.wire.attributes import PathAttributes
from bgp.wire.communities import parse
from bgp.wire.families import Family, family_of
from bgp.wire.iana import SegmentType

PLAIN = PathAttributes()
SMALL, LARGE = parse("65000:100"), parse("65000:1:2")
TAGGED = PathAttributes(communities=(int(SMALL),), large_communities=(bytes(LARGE),))  # type: ignore[arg-type]
LAN = (ip_network("172.26.0.0/24"), ip_network("fd26::/64"))
OWN = frozenset({ip_network("10.1.2.0/24"), ip_network("fd00::/64")})
NEAR, BEYOND = (PathAttributes(next_hop=ip_address(text)) for text in ("172.26.0.9", "10.0.0.9"))
FAR = PathAttributes(as_path=((SegmentType.AS_SEQUENCE, (65001, 65002, 65003)),))


def candidate(
    prefix: str = "10.1.2.0/24",
    attributes: PathAttributes = PLAIN,
    learned: bool = False,
) -> Candidate:
    return Candidate(nlri.pack(ip_network(prefix)), attributes, learned)


def refuses(rule: Rule, one: Candidate, internal: bool = False, family: Family = Family.IPV4) -> bool:
    return CompiledPolicy([rule], family, internal=internal)(one).attributes is None


def of(operator: Operator, prefix: str = "10.1.0.0/16", **lengths: int) -> PrefixMatch:
    return PrefixMatch(ip_network(prefix), operator, **lengths)


IN, NOT_IN, EQUAL, NOT_EQUAL = Operator.IN, Operator.NOT_IN, Operator.EQUAL, Operator.NOT_EQUAL

PREFIXES = [
    (of(IN), "10.1.2.0/24", True),
    (of(IN), "10.1.0.0/16", True),
    (of(IN), "10.0.0.0/8", False),
    (of(IN), "10.2.0.0/24", False),
    (of(IN), "10.1.2.3/32", True),
    (of(IN, least_length=20), "10.1.0.0/16", False),
    (of(IN, least_length=20), "10.1.16.0/20", True),
    (of(IN, most_length=24), "10.1.2.0/24", True),
    (of(IN, most_length=24), "10.1.2.0/25", False),
    (of(IN, least_length=8), "10.0.0.0/8", False),
    (of(NOT_IN), "10.1.2.0/24", False),
    (of(NOT_IN), "10.2.2.0/24", True),
    (of(NOT_IN, most_length=20), "10.1.2.0/24", True),
    (of(EQUAL), "10.1.0.0/16", True),
    (of(EQUAL), "10.1.0.0/17", False),
    (of(EQUAL), "10.0.0.0/15", False),
    (of(NOT_EQUAL), "10.1.0.0/16", False),
    (of(NOT_EQUAL), "10.1.0.0/17", True),
    (of(IN, "0.0.0.0/0"), "0.0.0.0/0", True),
    (of(IN, "0.0.0.0/0"), "255.255.255.255/32", True),
    (of(EQUAL, "0.0.0.0/0"), "0.0.0.0/0", True),
    (of(IN, "fd00::/8"), "fd00:1::/64", True),
    (of(IN, "fd00::/8"), "fe00::/64", False),
    (of(EQUAL, "fd00::1/128"), "fd00::1/128", True),
]


@pytest.mark.parametrize(
    ("match", "prefix", "matches"),
    PREFIXES,
    ids=[f"{match.operator.value} {match.prefix} {prefix}" for match, prefix, _ in PREFIXES],
)
def test_a_prefix_matches_by_its_operator_and_its_length(
    match: PrefixMatch, prefix: str, matches: bool
) -> None:
    family = family_of(ip_network(prefix))
    assert refuses(Rule(Action.REJECT, prefix=match), candidate(prefix), family=family) is matches


@given(
    number=st.integers(0, 0xFFFFFFFF),
    length=st.integers(0, 32),
    rule_number=st.integers(0, 0xFFFFFFFF),
    rule_length=st.integers(0, 32),
)
def test_in_and_equal_mean_what_the_standard_library_means(
    number: int, length: int, rule_number: int, rule_length: int
) -> None:
    inside = ip_network((number, length), strict=False)
    outside = ip_network((rule_number if length % 2 else number, rule_length), strict=False)
    one = candidate(str(inside))
    assert refuses(Rule(Action.REJECT, prefix=PrefixMatch(outside)), one) is inside.subnet_of(outside)  # type: ignore[arg-type]
    assert refuses(Rule(Action.REJECT, prefix=PrefixMatch(outside, EQUAL)), one) is (inside == outside)


CONDITIONS = [
    ("learned", Rule(Action.REJECT, learned=True), candidate(learned=True), True),
    ("own", Rule(Action.REJECT, learned=True), candidate(), False),
    (
        "next hop on a subnet",
        Rule(Action.REJECT, interfaces=InterfaceMatch(LAN)),
        candidate(attributes=NEAR, learned=True),
        True,
    ),
    (
        "next hop elsewhere",
        Rule(Action.REJECT, interfaces=InterfaceMatch(LAN)),
        candidate(attributes=BEYOND, learned=True),
        False,
    ),
    (
        "next hop beyond a router",
        Rule(Action.REJECT, interfaces=InterfaceMatch(elsewhere=LAN)),
        candidate(attributes=BEYOND, learned=True),
        True,
    ),
    (
        "next hop on another's subnet",
        Rule(Action.REJECT, interfaces=InterfaceMatch(elsewhere=LAN)),
        candidate(attributes=NEAR, learned=True),
        False,
    ),
    ("own, behind it", Rule(Action.REJECT, interfaces=InterfaceMatch(own=OWN)), candidate(), True),
    (
        "own, not behind it",
        Rule(Action.REJECT, interfaces=InterfaceMatch(own=OWN)),
        candidate("10.1.3.0/24"),
        False,
    ),
    (
        "own, whatever its next hop",
        Rule(Action.REJECT, interfaces=InterfaceMatch(LAN)),
        candidate(attributes=NEAR),
        False,
    ),
    (
        "no next hop",
        Rule(Action.REJECT, interfaces=InterfaceMatch(elsewhere=())),
        candidate(learned=True),
        False,
    ),
    ("community", Rule(Action.REJECT, community=SMALL), candidate(attributes=TAGGED), True),
    ("no community", Rule(Action.REJECT, community=SMALL), candidate(), False),
    ("large community", Rule(Action.REJECT, community=LARGE), candidate(attributes=TAGGED), True),
    ("no large community", Rule(Action.REJECT, community=LARGE), candidate(), False),
    ("path begins", Rule(Action.REJECT, as_path_begins=(65001, 65002)), candidate(attributes=FAR), True),
    ("path is", Rule(Action.REJECT, as_path_begins=(65001, 65002, 65003)), candidate(attributes=FAR), True),
    ("path goes on", Rule(Action.REJECT, as_path_begins=(65002,)), candidate(attributes=FAR), False),
    ("path is shorter", Rule(Action.REJECT, as_path_begins=(65001,)), candidate(), False),
    ("normal priority", Rule(Action.REJECT, priority=1024), candidate(), True),
    (
        "priority of the wire",
        Rule(Action.REJECT, priority=512),
        candidate(attributes=PathAttributes(local_pref=LARGEST_LOCAL_PREF - 512)),
        True,
    ),
    (
        "an ordinary LOCAL_PREF is no priority",
        Rule(Action.REJECT, priority=1024),
        candidate(attributes=PathAttributes(local_pref=300)),
        True,
    ),
    ("another priority", Rule(Action.REJECT, priority=512), candidate(), False),
    ("internal peer", Rule(Action.REJECT, internal=True), candidate(), False),
    ("external peer", Rule(Action.REJECT, internal=False), candidate(), True),
    ("its family", Rule(Action.REJECT, family=Family.IPV4), candidate(), True),
    ("another family", Rule(Action.REJECT, family=Family.IPV6), candidate(), False),
    ("a prefix of another family", Rule(Action.REJECT, prefix=of(NOT_IN, "fd00::/8")), candidate(), False),
    ("nothing set", Rule(Action.REJECT), candidate(), True),
    (
        "one of two conditions",
        Rule(Action.REJECT, community=SMALL, learned=True),
        candidate(attributes=TAGGED),
        False,
    ),
    (
        "both conditions",
        Rule(Action.REJECT, community=SMALL, learned=True),
        candidate(attributes=TAGGED, learned=True),
        True,
    ),
]


@pytest.mark.parametrize(
    ("rule", "one", "matches"), [case[1:] for case in CONDITIONS], ids=[case[0] for case in CONDITIONS]
)
def test_a_rule_matches_when_everything_that_is_set_matches(
    rule: Rule, one: Candidate, matches: bool
) -> None:
    assert refuses(rule, one) is matches


OPERATIONS: list[tuple[Operation, PathAttributes, PathAttributes]] = [
    (AddCommunity(SMALL), PLAIN, PathAttributes(communities=(65000 << 16 | 100,))),
    (AddCommunity(LARGE), PLAIN, PathAttributes(large_communities=(bytes(LARGE),))),  # type: ignore[arg-type]
    (AddCommunity(SMALL), TAGGED, TAGGED),
    (AddCommunity(LARGE), TAGGED, TAGGED),
    (
        PrependAs((65000, 65009)),
        FAR,
        PathAttributes(as_path=((SegmentType.AS_SEQUENCE, (65000, 65009, 65001, 65002, 65003)),)),
    ),
    (PrependAs((65000,)), PLAIN, PathAttributes(as_path=((SegmentType.AS_SEQUENCE, (65000,)),))),
    (SetPriority(512), PLAIN, PathAttributes(local_pref=0x7FFFFFFF - 512)),
]


@pytest.mark.parametrize(("operation", "before", "after"), OPERATIONS)
def test_an_operation_changes_what_it_names(
    operation: Operation, before: PathAttributes, after: PathAttributes
) -> None:
    judge = CompiledPolicy([Rule(Action.ACCEPT, "it", operations=(operation,))], Family.IPV4, internal=True)
    assert judge(candidate(attributes=before)) == PolicyResult(after, "it")


@given(st.integers(1, 0x3FFFFFFF))
def test_a_priority_that_was_set_is_read_back(priority: int) -> None:
    judge = CompiledPolicy(
        [Rule(Action.ACCEPT, operations=(SetPriority(priority),))], Family.IPV4, internal=True
    )
    found = judge(candidate()).attributes
    assert found is not None
    assert priority_of(found) == priority


def test_the_first_rule_that_decides_names_the_reason() -> None:
    rules = [
        Rule(Action.REJECT, "elsewhere", prefix=of(NOT_IN)),
        Rule(Action.NEXT, "tag", operations=(AddCommunity(SMALL),)),
        Rule(Action.ACCEPT, "tagged", community=SMALL, operations=(AddCommunity(LARGE),)),
        Rule(Action.REJECT, "rest"),
    ]
    judge = CompiledPolicy(rules, Family.IPV4, internal=True)
    assert judge(candidate()) == PolicyResult(TAGGED, "tagged")
    assert judge(candidate("10.9.0.0/24")) == PolicyResult(None, "elsewhere")


def test_what_no_rule_decides_is_accepted_as_it_was_changed() -> None:
    judge = CompiledPolicy([Rule(Action.NEXT, operations=(AddCommunity(SMALL),))], Family.IPV4, internal=True)
    assert judge(candidate()) == PolicyResult(PathAttributes(communities=(65000 << 16 | 100,)))
    assert CompiledPolicy(Policy().import_rules, Family.IPV4, internal=True)(candidate()) == PolicyResult(
        PLAIN
    )
