"""The workload filter's bytes: elements both ways, what a change costs, and rules known by what they are."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.dataplane.kernel import filter_table
from agent.dataplane.kernel.dataplane_objects import FilterElement, FilterSet, WorkloadFilter
from agent.dataplane.kernel.filter_rules import CHAINS, FORWARD, REASONS, RULES
from agent.netlink import nftables
from agent.netlink.rtnetlink import HEADER, messages

interfaces = st.text("abcdefghijklmnopqrstuvwxyz0123456789._-", min_size=1, max_size=15)
four, six = (
    st.builds(IPv4Address, st.integers(0, 2**32 - 1)),
    st.builds(IPv6Address, st.integers(0, 2**128 - 1)),
)
ports = st.integers(0, 65535)
VALUES = {
    FilterSet.SOURCES_4: st.tuples(interfaces, four),
    FilterSet.SOURCES_6: st.tuples(interfaces, six),
    FilterSet.SOURCE_PREFIXES_4: st.tuples(
        interfaces, st.builds(lambda a, n: IPv4Network((a, n), strict=False), four, st.integers(0, 32))
    ),
    FilterSet.SOURCE_PREFIXES_6: st.tuples(
        interfaces, st.builds(lambda a, n: IPv6Network((a, n), strict=False), six, st.integers(0, 128))
    ),
    FilterSet.ROUTERS: st.tuples(interfaces),
    FilterSet.PEERS: st.tuples(interfaces),
    FilterSet.NODES_4: st.tuples(four),
    FilterSet.NODES_6: st.tuples(six),
    FilterSet.SPEAKERS_4: st.tuples(four, ports),
    FilterSet.SPEAKERS_6: st.tuples(six, ports),
    FilterSet.SPEAKER_PORTS: st.tuples(ports),
    FilterSet.BGP_PORTS: st.tuples(ports),
    FilterSet.VXLAN_PORTS_4: st.tuples(ports),
    FilterSet.VXLAN_PORTS_6: st.tuples(ports),
    FilterSet.TUNNEL_PROTOCOLS: st.tuples(st.integers(0, 255)),
}
elements = st.sampled_from(list(FilterSet)).flatmap(
    lambda which: st.builds(FilterElement, st.just(which), VALUES[which])
)


@given(st.frozensets(elements, max_size=20))
@settings(derandomize=True, max_examples=200)
def test_any_elements_survive_their_bytes(found: frozenset[FilterElement]) -> None:
    read = set()
    for data in filter_table._elements(nftables.NEWSETELEM, found):
        words = nftables.decoded(data, HEADER.size, len(data))
        which = FilterSet(nftables.text_of(words, nftables.ELEM_LIST_SET))
        for pair in filter_table.decode_keys(data, HEADER.size, len(data)):
            read.update(filter_table.elements_of(which, pair))
    assert read == found


@given(st.sampled_from(list(FilterSet)), st.binary(max_size=40), st.binary(max_size=40))
@settings(derandomize=True, max_examples=200)
def test_keys_of_another_form_are_no_elements_and_no_error(
    which: FilterSet, first: bytes, last: bytes
) -> None:
    for element in filter_table.elements_of(which, (first, last)):
        assert element.of is which


def element(number: int) -> FilterElement:
    return FilterElement(FilterSet.SOURCES_4, (f"cali{number}", IPv4Address((10 << 24) + number)))


def kinds(batch: list[bytes]) -> list[int]:
    return [found.type for found in messages(b"".join(batch))]


BEGIN, END = nftables.NFNL_MSG_BATCH_BEGIN, nftables.NFNL_MSG_BATCH_END


def test_a_pod_among_a_thousand_is_one_element_in_one_message() -> None:
    known = WorkloadFilter(frozenset(map(element, range(1000))))
    more = WorkloadFilter(frozenset(map(element, range(1001))))
    assert kinds(filter_table.change(more, known)) == [BEGIN, nftables.NEWSETELEM, END]
    assert kinds(filter_table.change(known, more)) == [BEGIN, nftables.DELSETELEM, END]
    assert filter_table.change(known, known) == []
    (_, message, _) = filter_table.change(more, known)
    assert len(filter_table.decode_keys(message, HEADER.size, len(message))) == 1


def test_a_whole_table_is_one_batch_with_its_addresses_before_its_rules() -> None:
    found = kinds(filter_table.creation(WorkloadFilter(frozenset({element(1)}))))
    table = [nftables.NEWTABLE, nftables.DELTABLE, nftables.NEWTABLE]
    sets, chains = [nftables.NEWSET] * len(FilterSet), [nftables.NEWCHAIN] * len(CHAINS)
    rules = [nftables.NEWRULE] * len(RULES)
    assert found == [BEGIN, *table, *sets, nftables.NEWSETELEM, *chains, *rules, END]


def test_many_elements_are_cut_into_messages_that_fit_their_length_field() -> None:
    parts = list(filter_table._elements(nftables.NEWSETELEM, frozenset(map(element, range(10_000)))))
    assert len(parts) > 1
    assert all(len(part) < 1 << 16 for part in parts)


def test_a_rule_is_told_by_its_chain_its_comment_and_its_expressions() -> None:
    found = []
    for rule in RULES:
        data = filter_table._rule(rule)
        found.append(filter_table.decode_rule(data, HEADER.size, len(data)))
    assert [one.identity for one in found] == [rule.identity for rule in RULES]
    assert filter_table.is_intact([0], found)
    forward = [one for one in found if one.identity[0] == FORWARD]
    others = [one for one in found if one not in forward]
    assert filter_table.is_intact([0], [*forward, *others])  # the order of chains is the kernel's own
    assert not filter_table.is_intact([1], found)
    assert not filter_table.is_intact([0], found[1:])
    assert not filter_table.is_intact([0], [found[1], found[0], *found[2:]])
    assert filter_table.dropped(found) == dict.fromkeys(REASONS, 0)


def test_every_rule_that_drops_counts_first_and_only_those() -> None:
    for rule in RULES:
        names = [name for name, _ in rule.expressions]
        assert names[-1] == "immediate"
        assert (names[-2] == "counter") == rule.drops


def test_only_what_names_our_table_concerns_the_filter() -> None:
    ours = filter_table._rule(RULES[0])
    for data, expected in ((ours, True), (ours.replace(b"tortie\0", b"docker\0"), False)):
        assert filter_table.concerns_filter(data, next(messages(data))) == expected
    begin = filter_table.removal()[0]
    assert not filter_table.concerns_filter(begin, next(messages(begin)))
