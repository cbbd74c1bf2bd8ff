"""The workload filter, table `inet tortie`, as messages of nf_tables: its sets, what is in them, its chains and rules.

Promises: pure; a table is made in one batch, so there is never a moment with rules and without addresses, nor one with
neither; one element that comes or goes is one message. What is decoded of an encoded table is the same value.
Does not know: sockets, what the rules say (`filter_rules`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    summarize_address_range,
)

from agent.dataplane.kernel.dataplane_objects import (
    WORKLOAD_SETS,
    FilterElement,
    FilterSet,
    WorkloadFilter,
)
from agent.dataplane.kernel.filter_rules import CHAINS, RULES, FilterRule
from agent.netlink import nftables as nft
from agent.netlink.objects import Address, Prefix
from agent.netlink.rtnetlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, Message, attribute, attributes

TABLE = "tortie"
NAME = f"inet {TABLE}"
"""As nft(8) names it."""
BYTES_PER_MESSAGE = 60_000
"""A nested attribute's length is 16 bits."""


class Part(Enum):
    """One part of a key: what nft(8) calls its type (which the kernel only stores), and its bytes."""

    INTERFACE = 41, 16
    IPV4 = 7, 4
    IPV6 = 8, 16
    PORT = 13, 2
    PROTOCOL = 12, 1


Value = str | int | Address
Pair = tuple[bytes, bytes]
"""The key of an element, and the last key of its interval; empty outside of intervals."""

SETS: dict[FilterSet, tuple[Part, ...]] = {
    FilterSet.SOURCES_4: (Part.INTERFACE, Part.IPV4),
    FilterSet.SOURCES_6: (Part.INTERFACE, Part.IPV6),
    FilterSet.SOURCE_PREFIXES_4: (Part.INTERFACE, Part.IPV4),
    FilterSet.SOURCE_PREFIXES_6: (Part.INTERFACE, Part.IPV6),
    FilterSet.ROUTERS: (Part.INTERFACE,),
    FilterSet.PEERS: (Part.INTERFACE,),
    FilterSet.NODES_4: (Part.IPV4,),
    FilterSet.NODES_6: (Part.IPV6,),
    FilterSet.SPEAKERS_4: (Part.IPV4, Part.PORT),
    FilterSet.SPEAKERS_6: (Part.IPV6, Part.PORT),
    FilterSet.SPEAKER_PORTS: (Part.PORT,),
    FilterSet.BGP_PORTS: (Part.PORT,),
    FilterSet.VXLAN_PORTS_4: (Part.PORT,),
    FilterSet.VXLAN_PORTS_6: (Part.PORT,),
    FilterSet.TUNNEL_PROTOCOLS: (Part.PROTOCOL,),
}
INTERVALS = frozenset({FilterSet.SOURCE_PREFIXES_4, FilterSet.SOURCE_PREFIXES_6})


# -- keys -------------------------------------------------------------------------------------------------------------


def _field_bytes(parts: tuple[Part, ...]) -> list[int]:
    """In a key of several parts each takes whole registers of 4 bytes."""
    if len(parts) == 1:
        return [parts[0].value[1]]
    return [(part.value[1] + 3) & ~3 for part in parts]


def _octets(part: Part, value: Value) -> bytes:
    size = part.value[1]
    if isinstance(value, str):
        return value.encode().ljust(size, b"\0")
    return value.to_bytes(size, "big") if isinstance(value, int) else value.packed


def _value(part: Part, data: bytes) -> Value:
    octets = data[: part.value[1]]
    if part is Part.INTERFACE:
        return octets.rstrip(b"\0").decode(errors="replace")
    if part in (Part.IPV4, Part.IPV6):
        return ip_address(octets)
    return int.from_bytes(octets, "big")


def _key(parts: tuple[Part, ...], values: Iterable[Value]) -> bytes:
    fields = zip(parts, _field_bytes(parts), values, strict=True)
    return b"".join(_octets(part, value).ljust(size, b"\0") for part, size, value in fields)


def key_of(element: FilterElement) -> Pair:
    """An element as the kernel's key, or pair of keys."""
    parts = SETS[element.of]
    ends: tuple[list[Value], list[Value]] = [], []
    for value in element.values:
        is_prefix = isinstance(value, IPv4Network | IPv6Network)
        ends[0].append(value.network_address if is_prefix else value)  # type: ignore[union-attr, arg-type]
        ends[1].append(value.broadcast_address if is_prefix else value)  # type: ignore[union-attr, arg-type]
    return _key(parts, ends[0]), _key(parts, ends[1]) if element.of in INTERVALS else b""


def elements_of(which: FilterSet, pair: Pair) -> Iterator[FilterElement]:
    """The reverse; an interval that is no prefix is several elements. Nothing where the keys are not of this set."""
    parts = SETS[which]
    sizes = _field_bytes(parts)
    first, last = (_values(parts, sizes, key) for key in pair)
    if len(first) != len(parts):
        return
    if which not in INTERVALS or len(last) != len(parts):
        yield FilterElement(which, tuple(first))
        return
    for prefix in _between(first[-1], last[-1]):
        yield FilterElement(which, (*first[:-1], prefix))


def _values(parts: tuple[Part, ...], sizes: list[int], key: bytes) -> list[Value]:
    if len(key) != sum(sizes):
        return []
    found, offset = [], 0
    for part, size in zip(parts, sizes, strict=True):
        found.append(_value(part, key[offset : offset + size]))
        offset += size
    return found


def _between(first: Value, last: Value) -> Iterable[Prefix]:
    if isinstance(first, IPv4Address) and isinstance(last, IPv4Address) and first <= last:
        return summarize_address_range(first, last)
    if isinstance(first, IPv6Address) and isinstance(last, IPv6Address) and first <= last:
        return summarize_address_range(first, last)
    return ()


# -- messages ---------------------------------------------------------------------------------------------------------


def _request(kind: int, flags: int, words: nft.Words, *nests: bytes) -> bytes:
    return nft.request(kind, nft.NFPROTO_INET, flags, nft.packed(words), *nests)


def creation(wanted: WorkloadFilter) -> list[bytes]:
    """One batch that leaves the table so, whatever was there.

    Adding before deleting makes the deletion succeed whether or not the table was there.
    """
    new = _request(nft.NEWTABLE, NLM_F_CREATE, {nft.TABLE_NAME: TABLE})
    requests = [new, _request(nft.DELTABLE, 0, {nft.TABLE_NAME: TABLE}), new]
    requests += [_set(which, number) for number, which in enumerate(SETS, 1)]
    requests += _elements(nft.NEWSETELEM, wanted.workloads | wanted.cluster)
    requests += [_chain(name) for name in CHAINS]
    return nft.batch([*requests, *map(_rule, RULES)])


def change(now: WorkloadFilter, was: WorkloadFilter) -> list[bytes]:
    """One batch that makes one content of another; empty when nothing differs."""
    gone: set[FilterElement] = set()
    come: set[FilterElement] = set()
    for before, after in ((was.workloads, now.workloads), (was.cluster, now.cluster)):
        if before is not after:  # there may be thousands of nodes
            gone |= before - after
            come |= after - before
    requests = [*_elements(nft.DELSETELEM, gone), *_elements(nft.NEWSETELEM, come)]
    return nft.batch(requests) if requests else []


def removal() -> list[bytes]:
    """One batch after which there is no table."""
    new = _request(nft.NEWTABLE, NLM_F_CREATE, {nft.TABLE_NAME: TABLE})
    return nft.batch([new, _request(nft.DELTABLE, 0, {nft.TABLE_NAME: TABLE})])


def _set(which: FilterSet, number: int) -> bytes:
    parts = SETS[which]
    flags = nft.SET_INTERVAL | nft.SET_CONCATENATION if which in INTERVALS else 0
    key_type = 0
    for part in parts:
        key_type = key_type << 6 | part.value[0]
    words: dict[int, str | int | bytes] = {
        nft.SET_TABLE: TABLE,
        nft.SET_NAME: which.value,
        nft.SET_FLAGS: flags,
    }
    words |= {nft.SET_KEY_TYPE: key_type, nft.SET_KEY_LENGTH: sum(_field_bytes(parts)), nft.SET_ID: number}
    fields = (nft.nested(nft.LIST_ELEM, nft.packed({nft.FIELD_LENGTH: size})) for size in _field_bytes(parts))
    described = nft.nested(nft.DESCRIPTION_CONCATENATION, *fields)
    return _request(
        nft.NEWSET,
        NLM_F_CREATE,
        words,
        *((nft.nested(nft.SET_DESCRIPTION, described),) if which in INTERVALS else ()),
    )


def _elements(kind: int, elements: Collection[FilterElement]) -> Iterator[bytes]:
    by_set: defaultdict[FilterSet, list[bytes]] = defaultdict(list)
    for element in elements:
        by_set[element.of].append(_element(key_of(element)))
    for which, encoded in by_set.items():
        words: nft.Words = {nft.ELEM_LIST_TABLE: TABLE, nft.ELEM_LIST_SET: which.value}
        step = max(1, BYTES_PER_MESSAGE // len(encoded[0]))
        for start in range(0, len(encoded), step):
            part = nft.nested(nft.ELEM_LIST_ELEMENTS, *encoded[start : start + step])
            yield _request(kind, NLM_F_CREATE if kind == nft.NEWSETELEM else 0, words, part)


def _element(pair: Pair) -> bytes:
    kinds = zip((nft.ELEM_KEY, nft.ELEM_KEY_END), pair, strict=True)
    nests = (nft.nested(kind, nft.packed({nft.DATA_VALUE: key})) for kind, key in kinds if key)
    return nft.nested(nft.LIST_ELEM, *nests)


def _chain(name: str) -> bytes:
    words: nft.Words = {nft.CHAIN_TABLE: TABLE, nft.CHAIN_NAME: name}
    if (found := CHAINS[name]) is None:
        return _request(nft.NEWCHAIN, NLM_F_CREATE, words)
    hook = nft.packed({nft.HOOK_NUMBER: found[0], nft.HOOK_PRIORITY: found[1] & 0xFFFFFFFF})
    base = nft.packed({nft.CHAIN_POLICY: nft.POLICY_ACCEPT, nft.CHAIN_TYPE: "filter"})
    return _request(nft.NEWCHAIN, NLM_F_CREATE, words, nft.nested(nft.CHAIN_HOOK, hook), base)


def _rule(rule: FilterRule) -> bytes:
    return _request(
        nft.NEWRULE,
        NLM_F_CREATE | nft.NLM_F_APPEND,
        {nft.RULE_TABLE: TABLE, nft.RULE_CHAIN: rule.chain},
        nft.nested(nft.RULE_EXPRESSIONS, *(data for _, data in rule.expressions)),
        attribute(nft.RULE_USERDATA, nft.comment(rule.comment)),
    )


# -- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RuleFound:
    """A rule as the kernel has it."""

    identity: tuple[str, str, tuple[str, ...]]
    """See FilterRule."""
    packets: int
    """What its counter counted; 0 without one."""


def table_request() -> bytes:
    """NFT_MSG_GETTABLE of our table, acknowledged, so that its answer has an end."""
    return _request(nft.GETTABLE, NLM_F_ACK, {nft.TABLE_NAME: TABLE})


def rules_request() -> bytes:
    """NFT_MSG_GETRULE of all chains of our table."""
    return _request(nft.GETRULE, NLM_F_DUMP, {nft.RULE_TABLE: TABLE})


def elements_request(which: FilterSet) -> bytes:
    """NFT_MSG_GETSETELEM of one of our sets."""
    return _request(nft.GETSETELEM, NLM_F_DUMP, {nft.ELEM_LIST_TABLE: TABLE, nft.ELEM_LIST_SET: which.value})


def decode_table(data: bytes, start: int, end: int) -> int:
    """The flags of a table: of ours there are none, and a dormant one does nothing. Raises BadMessage."""
    return int.from_bytes(nft.decoded(data, start, end).get(nft.TABLE_FLAGS, b""), "big")


def decode_rule(data: bytes, start: int, end: int) -> RuleFound:
    """A rule of our table. Raises BadMessage."""
    words = nft.decoded(data, start, end)
    names, packets = [], 0
    for item in nft.items(words.get(nft.RULE_EXPRESSIONS, b"")):
        expression = attributes(item, 0, len(item))
        names.append(nft.text_of(expression, nft.EXPR_NAME))
        if names[-1] == "counter":
            inner = expression.get(nft.EXPR_DATA, b"")
            packets += int.from_bytes(attributes(inner, 0, len(inner)).get(nft.COUNTER_PACKETS, b""), "big")
    comment = nft.comment_of(words.get(nft.RULE_USERDATA, b""))
    return RuleFound((nft.text_of(words, nft.RULE_CHAIN), comment, tuple(names)), packets)


def is_intact(flags: Iterable[int], rules: Iterable[RuleFound]) -> bool:
    """Whether a table with these flags and rules is as it was made."""
    chains = list(CHAINS)
    found = sorted(
        (rule.identity for rule in rules), key=lambda one: chains.index(one[0]) if one[0] in chains else -1
    )
    return not any(flags) and found == [rule.identity for rule in RULES]


def dropped(rules: Iterable[RuleFound]) -> dict[str, int]:
    """Reason -> packets dropped."""
    found: defaultdict[str, int] = defaultdict(int)
    drops = {rule.identity for rule in RULES if rule.drops}
    for rule in rules:
        if rule.identity in drops:
            found[rule.identity[1]] += rule.packets
    return dict(found)


def decode_keys(data: bytes, start: int, end: int) -> list[Pair]:
    """The elements in one message of a set's elements. Raises BadMessage."""
    found: list[Pair] = []
    for item in nft.items(nft.decoded(data, start, end).get(nft.ELEM_LIST_ELEMENTS, b"")):
        element = attributes(item, 0, len(item))
        keys = (element.get(kind, b"") for kind in (nft.ELEM_KEY, nft.ELEM_KEY_END))
        first, last = (attributes(key, 0, len(key)).get(nft.DATA_VALUE, b"") for key in keys)
        found.append((first, last))
    return found


def filter_of(elements: Iterable[FilterElement], *, intact: bool) -> WorkloadFilter:
    """What was read, as a value."""
    found = frozenset(elements)
    workloads = frozenset(one for one in found if one.of in WORKLOAD_SETS)
    return WorkloadFilter(workloads, found - workloads, intact)


def concerns_filter(data: bytes, found: Message) -> bool:
    """Whether a notification is about our table."""
    if not nft.is_about_objects(found) or data[found.start] != nft.NFPROTO_INET:
        return False
    return nft.decoded(data, found.start, found.end).get(nft.TABLE_NAME) == nft.octets(TABLE)
