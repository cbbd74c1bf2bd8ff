"""A table of iptables-legacy, recorded: what its rules say, and that octets changed at random end in one error."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.dataplane.cooperative import run_now
from agent.felix.felix_rules import FilterChain, FilterTable, dropped_in
from agent.felix.legacy_tables import BadTable, decode_entries, decode_info
from tests.scenes.felix.legacy_octets import recorded

EXPECTED = {
    "FORWARD": [
        'jump cali-FORWARD comment "cali:forwardforward01"',
        'jump others comment "not of cali: -j cali-FORWARD"',
        '… accept comment "cali:middlemiddle0001"',
        "… accept",
        '… accept comment "cali:acceptaccept0001; Policy explicitly accepted packet."',
        'continue comment "cali:markmarkmark0001"',
    ],
    "cali-FORWARD": [
        'continue comment "cali:forwardforward02"',
        '… jump cali-from-hep-forward comment "cali:forwardforward03"',
        'iifname "cali*" jump cali-from-wl-dispatch comment "cali:forwardforward04"',
        'oifname "cali*" jump cali-to-wl-dispatch comment "cali:forwardforward05"',
        "return",
    ],
    "cali-from-wl-dispatch": [
        'iifname "cali1*" goto cali-from-wl-dispatch-1 comment "cali:fromfromfrom0001"',
        'drop comment "cali:fromfromfrom0002; Unknown interface"',
        "return",
    ],
    "cali-from-wl-dispatch-1": [
        'iifname "cali12345678901" goto cali-fw-cali12345678901 comment "cali:fromfromfrom0003"',
        'drop comment "cali:fromfromfrom0004; Unknown interface"',
        "return",
    ],
    "cali-fw-cali12345678901": [
        '… drop comment "cali:fwfwfwfwfw000001"',
        'continue comment "cali:fwfwfwfwfw000002"',
        "return",
    ],
}


def chains(version: int) -> dict[str, FilterChain]:
    info, entries = recorded(version)
    return run_now(decode_entries(entries, decode_info(info), version))


@pytest.mark.parametrize("version", [4, 6])
def test_every_rule_is_read_as_iptables_wrote_it(version: int) -> None:
    found = chains(version)
    assert {name: list(map(str, found[name].rules)) for name in EXPECTED} == EXPECTED
    assert {chain.name: chain.hook for chain in found.values() if chain.hook} == {
        "INPUT": "input",
        "FORWARD": "forward",
        "OUTPUT": "output",
    }
    dropped = dropped_in(FilterTable("iptables-legacy", "ip", "filter", found))
    assert dropped is not None
    assert dropped.path == (
        "INPUT",
        "cali-INPUT",
        "cali-wl-to-host",
        "cali-from-wl-dispatch",
        "cali-from-wl-dispatch-1",
    )


@given(st.data(), st.sampled_from((4, 6)))
def test_changed_octets_end_in_chains_or_in_one_error(data: st.DataObject, version: int) -> None:
    info, entries = map(bytearray, recorded(version))
    for buffer in (info, entries):
        for place in data.draw(st.lists(st.integers(0, len(buffer) - 1), max_size=4)):
            buffer[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(entries)))
    with suppress(BadTable):
        found = run_now(decode_entries(bytes(entries[:cut]), decode_info(bytes(info)), version))
        dropped_in(FilterTable("iptables-legacy", "ip", "filter", found))


@given(st.binary(max_size=400), st.sampled_from((4, 6)), st.binary(max_size=100))
def test_octets_that_are_no_table_end_in_one_error(data: bytes, version: int, info: bytes) -> None:
    with suppress(BadTable):
        run_now(decode_entries(data, decode_info(info), version))
