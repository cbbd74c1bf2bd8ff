"""Policy: rules that accept, reject and change paths, on import and on export.

Promises: pure; the first rule that matches and is not `NEXT` decides, and its name is the reason that people are shown.
Rules are values, so two policies can be compared; `CompiledPolicy` makes them ready for one peer and one family.
Does not know: where the rules come from, sessions, RIBs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from bgp.policy.prefix_filter import ACCEPT_ALL, PrefixFilter
from bgp.wire.attributes import PathAttributes, prepended
from bgp.wire.families import Address, Family, Prefix, family_of
from bgp.wire.iana import SegmentType
from bgp.wire.nlri import LONGEST, Nlri, pack

NORMAL_PRIORITY = 1024
"""The priority of a path whose LOCAL_PREF carries none."""
LARGEST_LOCAL_PREF = 0x7FFFFFFF
"""LOCAL_PREF of priority 0: Calico carries a priority P between nodes as this number less P."""
NORMAL_LOCAL_PREF = LARGEST_LOCAL_PREF - NORMAL_PRIORITY
"""LOCAL_PREF of what a node originates: with it Calico's kernel routes get their normal metric."""
LEAST_LOCAL_PREF_WITH_PRIORITY = 0x40000000
"""Anything below is an ordinary LOCAL_PREF."""


class Action(Enum):
    """What becomes of a path that a rule matches."""

    ACCEPT = "Accept"
    REJECT = "Reject"
    NEXT = "Next"
    """Its operations are done, and the rules behind it decide."""


class Operator(Enum):
    """How a path's prefix compares with a rule's."""

    EQUAL = "Equal"
    NOT_EQUAL = "NotEqual"
    IN = "In"
    NOT_IN = "NotIn"


class Own(Enum):
    """How a path's prefix lies to the blocks that we originate."""

    IS = "is"
    INSIDE = "inside"


@dataclass(frozen=True, slots=True)
class PrefixMatch:
    """A prefix and an operator; the lengths bound what counts as inside (or equal)."""

    prefix: Prefix
    operator: Operator = Operator.IN
    least_length: int | None = None
    """Shortest prefix that matches; None: the prefix's own length."""
    most_length: int | None = None
    """Longest prefix that matches; None: the family's longest."""


@dataclass(frozen=True, slots=True)
class InterfaceMatch:
    """Paths by the interfaces that lead there: learned ones by their next hop, our own by prefix."""

    subnets: tuple[Prefix, ...] = ()
    """A next hop in one of these matches; no other, unless `elsewhere` is given."""
    elsewhere: tuple[Prefix, ...] | None = None
    """Given: a next hop outside of all these matches as well, for it is beyond a router."""
    own: frozenset[Prefix] = frozenset()
    """The prefixes of our own that are behind them."""


@dataclass(frozen=True, slots=True)
class AddCommunity:
    """Add a community: a number (RFC 1997), or twelve octets (RFC 8092)."""

    community: int | bytes


@dataclass(frozen=True, slots=True)
class PrependAs:
    """Put these AS numbers, in this order, in front of AS_PATH."""

    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SetPriority:
    """Set the kernel metric, the lower the better, which LOCAL_PREF carries."""

    priority: int


Operation = AddCommunity | PrependAs | SetPriority


@dataclass(frozen=True, slots=True)
class Rule:
    """Matches when everything that is set matches."""

    action: Action
    name: str = ""
    family: Family | None = None
    prefix: PrefixMatch | None = None
    learned: bool = False
    """Only paths that were learned."""
    own: Own | None = None
    """To our own blocks as they are now: rules need not change when these do."""
    interfaces: InterfaceMatch | None = None
    """The interfaces that lead there."""
    internal: bool | None = None
    """Whether the peer that announces it (import) or gets it (export) is of our AS."""
    community: int | bytes | None = None
    as_path_begins: tuple[int, ...] = ()
    priority: int | None = None
    operations: tuple[Operation, ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """The import and export rules of one peer. What no rule decides is accepted."""

    import_filter: PrefixFilter = ACCEPT_ALL
    """What the peer announces is believed if this lets it through; the import rules come behind it."""
    checks_claims: bool = False
    """And if no claim on a block says that it is another node's."""
    import_rules: tuple[Rule, ...] = ()
    export_rules: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """What a policy decided on one path."""

    attributes: PathAttributes | None
    """As changed by operations; None: rejected."""
    reason: str = ""
    """The name of the rule that decided; empty: none did."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A path that a policy decides on."""

    prefix: Nlri
    attributes: PathAttributes
    learned: bool
    own: Own | None = None
    """None: it is no block of ours, and inside of none."""


Test = Callable[[Candidate, PathAttributes], bool]


class CompiledPolicy:
    """The rules of one direction, ready for one peer and one family."""

    def __init__(self, rules: Sequence[Rule], family: Family, *, internal: bool) -> None:
        fitting = [
            rule
            for rule in rules
            if rule.family in (None, family)
            and rule.internal in (None, internal)
            and (rule.prefix is None or family_of(rule.prefix.prefix) is family)
        ]
        self._rules = [(rule, _tests(rule, family)) for rule in fitting]

    def __call__(self, candidate: Candidate) -> PolicyResult:
        """Decide on one path."""
        attributes = candidate.attributes
        for rule, tests in self._rules:
            for test in tests:
                if not test(candidate, attributes):
                    break
            else:
                if rule.action is Action.REJECT:
                    return PolicyResult(None, rule.name)
                for operation in rule.operations:
                    attributes = apply_operation(attributes, operation)
                if rule.action is Action.ACCEPT:
                    return PolicyResult(attributes, rule.name)
        return PolicyResult(attributes)


def compiled(rules: Sequence[Rule], family: Family, *, internal: bool) -> CompiledPolicy | None:
    """The rules made ready for one peer and one family; None where there are no rules, so that these cost nothing."""
    return CompiledPolicy(rules, family, internal=internal) if rules else None


def apply_operation(attributes: PathAttributes, operation: Operation) -> PathAttributes:
    """The attributes after one operation."""
    match operation:
        case AddCommunity(community):
            return _tagged(attributes, community)
        case PrependAs(numbers):
            as_path = attributes.as_path
            for number in reversed(numbers):
                as_path = prepended(as_path, number)
            return replace(attributes, as_path=as_path)
        case SetPriority(priority):
            return replace(attributes, local_pref=LARGEST_LOCAL_PREF - priority)


def _tagged(attributes: PathAttributes, community: int | bytes) -> PathAttributes:
    field = "large_communities" if isinstance(community, bytes) else "communities"
    known = getattr(attributes, field)
    changes: dict[str, Any] = {field: (*known, community)}
    return attributes if community in known else replace(attributes, **changes)


def priority_of(attributes: PathAttributes) -> int:
    """The priority that a path carries."""
    given = attributes.local_pref
    if given is None or not LEAST_LOCAL_PREF_WITH_PRIORITY <= given <= LARGEST_LOCAL_PREF:
        return NORMAL_PRIORITY
    return LARGEST_LOCAL_PREF - given


def _tests(rule: Rule, family: Family) -> list[Test]:
    """What must hold, the cheapest first."""
    tests: list[Test] = []
    if rule.learned:
        tests.append(lambda candidate, _: candidate.learned)
    if (own := rule.own) is not None:
        tests.append(lambda candidate, _: candidate.own is own)
    if rule.prefix is not None:
        tests.append(_prefix_test(rule.prefix, family))
    if rule.interfaces is not None:
        tests.append(_interface_test(rule.interfaces, family))
    if rule.community is not None:
        tests.append(_community_test(rule.community))
    if begins := rule.as_path_begins:
        tests.append(lambda _, attributes: _sequence(attributes)[: len(begins)] == begins)
    if (priority := rule.priority) is not None:
        tests.append(lambda _, attributes: priority_of(attributes) == priority)
    return tests


def _prefix_test(match: PrefixMatch, family: Family) -> Test:
    bits, own = LONGEST[family], match.prefix.prefixlen
    number, shift = int(match.prefix.network_address) >> (bits - own), bits - own
    least = own if match.least_length is None else max(own, match.least_length)
    most = bits if match.most_length is None else match.most_length
    if match.operator in (Operator.EQUAL, Operator.NOT_EQUAL):
        most = min(most, own)  # inside of a prefix, and no longer than it
    size = bits // 8

    def inside(candidate: Candidate, _: PathAttributes) -> bool:
        length = candidate.prefix[0]
        if not least <= length <= most:
            return False
        return int.from_bytes(candidate.prefix[1:].ljust(size, b"\0"), "big") >> shift == number

    if match.operator in (Operator.NOT_IN, Operator.NOT_EQUAL):
        return lambda candidate, attributes: not inside(candidate, attributes)
    return inside


def _interface_test(match: InterfaceMatch, family: Family) -> Test:
    own = frozenset(pack(prefix) for prefix in match.own if family_of(prefix) is family)

    def is_reached(next_hop: Address | None) -> bool:
        if next_hop is None:
            return False
        if any(next_hop in subnet for subnet in match.subnets):
            return True
        others = match.elsewhere
        return others is not None and not any(next_hop in subnet for subnet in others)

    return lambda candidate, attributes: (
        is_reached(attributes.next_hop) if candidate.learned else candidate.prefix in own
    )


def _community_test(community: int | bytes) -> Test:
    if isinstance(community, bytes):
        return lambda _, attributes: community in attributes.large_communities
    return lambda _, attributes: community in attributes.communities


def _sequence(attributes: PathAttributes) -> tuple[int, ...]:
    """The AS numbers that the path begins with, in order."""
    found: tuple[int, ...] = ()
    for kind, numbers in attributes.as_path:
        if kind != SegmentType.AS_SEQUENCE:
            break
        found += numbers
    return found
