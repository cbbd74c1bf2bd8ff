"""What the two sides say to each other: bounded and typed, whichever of them is the newer one."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.bfd.door import (
    LONGEST_LINE,
    MOST_SESSIONS,
    BadMessage,
    Desired,
    DesiredSession,
    Report,
    SessionKey,
    SessionReport,
    encode,
    read_desired,
    read_report,
)

KEY = {"peer": "10.0.0.2", "local": "10.0.0.1", "interface": "eth0"}


def asked(**more: Any) -> bytes:
    return json.dumps({"version": 1, "sessions": [{"key": KEY, **more}]}).encode()


def test_what_is_said_is_what_is_read() -> None:
    desired = Desired((DesiredSession(SessionKey("fe80::1", "", "eth0"), 50, 60, 4),), 7)
    assert read_desired(encode(desired)) == desired
    report = Report(7, True, (SessionReport(SessionKey("10.0.0.2"), failures=3),), {"sent": 5})
    assert read_report(encode(report)) == report


def test_a_field_that_a_newer_side_has_is_passed_over() -> None:
    assert read_desired(asked(echo=True)).sessions[0].multiplier == 3


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"", "cannot be read"),
        (b"{}", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (asked(min_tx_ms=9), "min_tx_ms"),
        (asked(min_rx_ms=60_001), "min_rx_ms"),
        (asked(multiplier=0), "multiplier"),
        (asked(multiplier=256), "multiplier"),
        (asked(minimum_ttl=0), "minimum_ttl"),
        (asked(key={"peer": "tor1"}), "tor1"),
        (asked(key={"peer": "fe80::1%eth0"}), "zone"),
        (asked(key={"peer": "fe80::1"}), "needs its interface"),
        (asked(key={"peer": "10.0.0.2", "local": "fd00::1"}), "other version"),
        (asked(key={"peer": "10.0.0.2", "interface": "a" * 16}), "interface"),
        (asked(key={"peer": "10.0.0.2", "interface": "../x"}), "no interface"),
        (asked(key={"peer": "10.0.0.2", "interface": "eth0", "multihop": True}), "no interface"),
        (json.dumps({"sessions": [{"key": KEY}] * 2}).encode(), "twice"),
        (json.dumps({"sessions": [{"key": KEY}] * (MOST_SESSIONS + 1)}).encode(), "length"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_with_a_sentence(line: bytes, words: str) -> None:
    with pytest.raises(BadMessage, match=words):
        read_desired(line)


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_any_line_is_a_message_or_a_bad_one(line: bytes) -> None:
    for read in (read_desired, read_report):
        with suppress(BadMessage):
            read(line)


def test_the_largest_messages_are_within_the_bound_of_a_line() -> None:
    keys = [
        SessionKey(f"fd00:1234:5678:9abc:def0:1234:5678:{n:x}", "fd00::1", "e" * 15)
        for n in range(MOST_SESSIONS)
    ]
    assert len(encode(Desired(tuple(map(DesiredSession, keys))))) <= LONGEST_LINE
    reports = tuple(SessionReport(key, diagnostic="x" * 30, error="x" * 200) for key in keys)
    assert len(encode(Report(1, True, reports))) <= LONGEST_LINE
