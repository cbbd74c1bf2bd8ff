"""Control packets: a golden pair, and each check of RFC 5880 section 6.8.6."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.bfd.packet import Check, ControlPacket, Diagnostic, Dropped, State, decode, encode

OCTETS = bytes.fromhex("20c803180000000100000002000186a0000493e000000000")
"""Up, C bit, multiplier 3; from 1 to 2; 100 ms and 300 ms."""
PACKET = ControlPacket(State.UP, 1, 2, 100_000, 300_000, 3, independent=True)


def test_a_packet_is_the_octets_of_section_4_1_both_ways() -> None:
    assert encode(PACKET) == OCTETS
    assert decode(OCTETS) == PACKET


def with_octet(number: int, value: int) -> bytes:
    return OCTETS[:number] + bytes([value]) + OCTETS[number + 1 :]


@pytest.mark.parametrize(
    ("data", "check"),
    [
        (b"", Check.SHORT),
        (OCTETS[:23], Check.SHORT),
        (with_octet(0, 0x00), Check.VERSION),
        (with_octet(0, 0x40), Check.VERSION),
        (with_octet(3, 23), Check.LENGTH),
        (with_octet(1, 0xCC) + b"\0\0", Check.LENGTH),
        (with_octet(3, 25), Check.TRUNCATED),
        (with_octet(2, 0), Check.MULTIPLIER),
        (with_octet(1, 0xC9), Check.MULTIPOINT),
        (with_octet(7, 0), Check.MY_DISCRIMINATOR),
        (with_octet(11, 0), Check.YOUR_DISCRIMINATOR),
        (with_octet(11, 0)[:1] + b"\x88" + with_octet(11, 0)[2:], Check.YOUR_DISCRIMINATOR),
        (with_octet(1, 0xCC)[:3] + b"\x1a" + OCTETS[4:] + b"\x01\x09", Check.AUTHENTICATION),
        (with_octet(1, 0xF8), Check.POLL_AND_FINAL),
    ],
)
def test_a_packet_that_fails_a_check_is_dropped_by_that_check(data: bytes, check: Check) -> None:
    with pytest.raises(Dropped) as dropped:
        decode(data)
    assert dropped.value.check is check


@pytest.mark.parametrize("state", [State.DOWN, State.ADMIN_DOWN])
def test_a_neighbour_that_does_not_know_ours_yet_may_leave_our_discriminator_out(state: State) -> None:
    assert decode(encode(ControlPacket(state, 1, 0, 1, 1, 1))).your_discriminator == 0


def test_what_stands_behind_the_length_is_not_looked_at() -> None:
    assert decode(OCTETS + b"more") == PACKET


@given(
    st.builds(
        ControlPacket,
        state=st.sampled_from(State),
        my_discriminator=st.integers(1, 2**32 - 1),
        your_discriminator=st.integers(1, 2**32 - 1),
        desired_min_tx=st.integers(0, 2**32 - 1),
        required_min_rx=st.integers(0, 2**32 - 1),
        multiplier=st.integers(1, 255),
        diagnostic=st.one_of(st.sampled_from(Diagnostic), st.integers(0, 31)),
        poll=st.booleans(),
        independent=st.booleans(),
        demand=st.booleans(),
        required_min_echo_rx=st.integers(0, 2**32 - 1),
    )
)
def test_every_packet_is_read_as_it_was_written(packet: ControlPacket) -> None:
    assert decode(encode(packet)) == packet


@given(st.binary(max_size=64))
def test_any_octets_are_a_packet_or_dropped(data: bytes) -> None:
    with suppress(Dropped):
        decode(data)
