"""Octets of router discovery: what counts, and that nothing else does."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.uplinks.router_discovery import (
    Heard,
    Message,
    advertisement,
    echo_request,
    heard,
    solicitation,
)

ROUTER = IPv6Address("fe80::9")
MAC = "02:00:00:00:00:09"
ECHO = 77


def reply(identifier: int) -> bytes:
    return bytes((Message.ECHO_REPLY, 0)) + bytes(2) + identifier.to_bytes(2, "big") + b"\0\1"


def lifetime(seconds: int, mac: str | None = MAC) -> bytes:
    data = bytearray(advertisement(mac))
    data[6:8] = seconds.to_bytes(2, "big")
    return bytes(data)


GOOD = [
    (advertisement(MAC), Heard(3, ROUTER, Message.ROUTER_ADVERTISEMENT)),
    (advertisement(None), Heard(3, ROUTER, Message.ROUTER_ADVERTISEMENT)),
    (lifetime(1800), Heard(3, ROUTER, Message.ROUTER_ADVERTISEMENT, 1800)),
    (solicitation(MAC), Heard(3, ROUTER, Message.ROUTER_SOLICITATION)),
    (reply(ECHO), Heard(3, ROUTER, Message.ECHO_REPLY)),
]


@pytest.mark.parametrize(("data", "found"), GOOD)
def test_what_a_router_says_is_heard(data: bytes, found: Heard) -> None:
    assert heard(data, ROUTER, 3, 255, ECHO) == found


WRONG = [
    pytest.param(advertisement(MAC), ROUTER, 254, id="through a router"),
    pytest.param(solicitation(MAC), ROUTER, 64, id="a solicitation through a router"),
    pytest.param(advertisement(MAC), IPv6Address("fd00::9"), 255, id="not from the link"),
    pytest.param(advertisement(MAC)[:15], ROUTER, 255, id="cut off"),
    pytest.param(advertisement(MAC)[:-1], ROUTER, 255, id="an option that runs past it"),
    pytest.param(advertisement(None) + b"\1\0" + bytes(6), ROUTER, 255, id="an option without a length"),
    pytest.param(advertisement(None) + b"\1", ROUTER, 255, id="half an option"),
    pytest.param(b"\x86\1" + advertisement(MAC)[2:], ROUTER, 255, id="another code"),
    pytest.param(b"\x87" + advertisement(MAC)[1:], ROUTER, 255, id="a neighbour solicitation"),
    pytest.param(reply(ECHO + 1), ROUTER, 255, id="an answer to another's echo request"),
    pytest.param(echo_request(ECHO), ROUTER, 255, id="an echo request"),
    pytest.param(b"", ROUTER, 255, id="nothing"),
]


@pytest.mark.parametrize(("data", "source", "hops"), WRONG)
def test_what_no_router_on_the_link_says_is_nothing(data: bytes, source: IPv6Address, hops: int) -> None:
    assert heard(data, source, 3, hops, ECHO) is None


@given(st.binary(max_size=200), st.integers(0, 255))
def test_whatever_octets_come_nothing_is_raised(data: bytes, hops: int) -> None:
    found = heard(data, ROUTER, 1, hops, ECHO)
    assert found is None or found.source == ROUTER


@given(st.sampled_from([133, 134, 129]), st.binary(max_size=100))
def test_whatever_follows_a_type_that_is_heard_nothing_is_raised(kind: int, rest: bytes) -> None:
    heard(bytes((kind, 0)) + rest, ROUTER, 1, 255, ECHO)


def test_we_are_nobody_s_default_router() -> None:
    found = heard(advertisement(MAC), ROUTER, 3, 255, ECHO)
    assert found is not None
    assert found.lifetime_seconds == 0
