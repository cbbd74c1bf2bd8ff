"""Golden pairs, bytes and value, for every attribute, capability and code that the registries name."""

from __future__ import annotations

from dataclasses import replace
from enum import IntEnum
from ipaddress import IPv4Address

import pytest

from bgp.session.notification_text import describe_notification
from bgp.wire import attribute_codec, capabilities, messages
from bgp.wire.attributes import Context, PathAttributes
from bgp.wire.capabilities import Capabilities, GracefulRestart, LongLived
from bgp.wire.errors import NotificationError
from bgp.wire.families import Family
from bgp.wire.framing import Framing
from bgp.wire.iana import (
    Attribute,
    CapabilityCode,
    Cease,
    Error,
    FsmError,
    HeaderError,
    OpenError,
    RefreshError,
    UpdateError,
)
from bgp.wire.messages import Notification

WIDE, OLD = Context(four_octet_as=True, internal=True), Context(four_octet_as=False, internal=True)
A, C = Attribute, CapabilityCode
MANDATORY = "40010100" + "400200"
"""ORIGIN and AS_PATH, which every block has."""

ATTRIBUTES: list[tuple[Attribute, Context, dict[str, object], str]] = [
    (A.ORIGIN, WIDE, {"origin": 2}, "40010102" + "400200"),
    (A.AS_PATH, WIDE, {"as_path": ((2, (64512, 65001)),)}, "40010100" + "40020a" + "02020000fc000000fde9"),
    (A.AS_PATH, OLD, {"as_path": ((2, (64512, 65001)),)}, "40010100" + "400206" + "0202fc00fde9"),
    (
        A.AS_PATH,
        WIDE,
        {"as_path": ((3, (64512,)), (2, (1,)))},
        "40010100" + "40020c" + "03010000fc00" + "020100000001",
    ),
    (A.NEXT_HOP, WIDE, {"next_hop": IPv4Address("10.0.0.1")}, MANDATORY + "4003040a000001"),
    (A.MULTI_EXIT_DISC, WIDE, {"med": 7}, MANDATORY + "80040400000007"),
    (A.LOCAL_PREF, WIDE, {"local_pref": 2147482623}, MANDATORY + "4005047ffffbff"),
    (A.ATOMIC_AGGREGATE, WIDE, {"atomic_aggregate": True}, MANDATORY + "400600"),
    (
        A.AGGREGATOR,
        WIDE,
        {"aggregator": (64512, IPv4Address("10.0.0.2"))},
        MANDATORY + "c00708" + "0000fc000a000002",
    ),
    (
        A.AGGREGATOR,
        OLD,
        {"aggregator": (64512, IPv4Address("10.0.0.2"))},
        MANDATORY + "c00706" + "fc000a000002",
    ),
    (
        A.COMMUNITIES,
        WIDE,
        {"communities": (0xFC000001, 0xFFFFFF01)},
        MANDATORY + "c00808" + "fc000001ffffff01",
    ),
    (A.ORIGINATOR_ID, WIDE, {"originator_id": IPv4Address("10.0.0.3")}, MANDATORY + "8009040a000003"),
    (
        A.CLUSTER_LIST,
        WIDE,
        {"cluster_list": (IPv4Address("10.0.0.4"), IPv4Address("10.0.0.5"))},
        MANDATORY + "800a08" + "0a0000040a000005",
    ),
    (
        A.EXTENDED_COMMUNITIES,
        WIDE,
        {"extended_communities": (bytes.fromhex("0002fc0000000001"),)},
        MANDATORY + "c01008" + "0002fc0000000001",
    ),
    (
        A.AS4_PATH,
        OLD,
        {"as_path": ((2, (64512, 4200000001)),)},
        "40010100" + "400206" + "0202fc005ba0" + "c0110a" + "02020000fc00fa56ea01",
    ),
    (
        A.AS4_AGGREGATOR,
        OLD,
        {"aggregator": (4200000001, IPv4Address("10.0.0.2"))},
        MANDATORY + "c00706" + "5ba00a000002" + "c01208" + "fa56ea010a000002",
    ),
    (
        A.LARGE_COMMUNITY,
        WIDE,
        {"large_communities": (bytes.fromhex("0000fc000000000100000002"),)},
        MANDATORY + "c0200c" + "0000fc000000000100000002",
    ),
]
ELSEWHERE = {A.MP_REACH_NLRI, A.MP_UNREACH_NLRI}
"""Their pairs are whole messages, in test_ipv6."""


@pytest.mark.parametrize(
    ("code", "context", "fields", "wire"), [pytest.param(*row, id=row[0].name) for row in ATTRIBUTES]
)
def test_an_attribute_and_its_bytes_are_the_same_both_ways(
    code: Attribute, context: Context, fields: dict[str, object], wire: str
) -> None:
    attributes = replace(PathAttributes(), **fields)  # type: ignore[arg-type]
    assert attribute_codec.encode(attributes, context).hex() == wire
    found = attribute_codec.decode(bytes.fromhex(wire), context)
    assert (found.attributes, found.treatment, found.faults) == (attributes, None, ())
    assert code in found.present


def test_an_unknown_transitive_attribute_keeps_its_bytes_and_gains_the_partial_bit() -> None:
    found = attribute_codec.decode(bytes.fromhex(MANDATORY + "c06302abcd"), WIDE)
    assert found.attributes.unknown == ((0xE0, 99, b"\xab\xcd"),)
    assert attribute_codec.encode(found.attributes, WIDE).hex() == MANDATORY + "e06302abcd"


def test_every_attribute_of_the_registry_has_a_pair() -> None:
    assert set(Attribute) - {code for code, *_ in ATTRIBUTES} == ELSEWHERE


RESTART = GracefulRestart(
    120,
    restarting=True,
    notification=True,
    families=frozenset(Family),
    forwarding_preserved=frozenset({Family.IPV6}),
)
NONE = Capabilities(families=frozenset())
CAPABILITIES: list[tuple[CapabilityCode, Capabilities, str]] = [
    (C.MULTIPROTOCOL, Capabilities(families=frozenset(Family)), "010400010001" + "010400020001"),
    (C.ROUTE_REFRESH, Capabilities(route_refresh=True), "010400010001" + "0200"),
    (
        C.EXTENDED_NEXT_HOP,
        Capabilities(ipv6_next_hops=frozenset({Family.IPV4})),
        "010400010001" + "0506" + "000100010002",
    ),
    (C.EXTENDED_MESSAGE, Capabilities(extended_message=True), "010400010001" + "0600"),
    (
        C.GRACEFUL_RESTART,
        Capabilities(graceful_restart=RESTART),
        "010400010001" + "400a" + "c078" + "00010100" + "00020180",
    ),
    (C.FOUR_OCTET_AS, Capabilities(four_octet_as=4200000001), "010400010001" + "4104fa56ea01"),
    (
        C.ADD_PATH,
        Capabilities(add_path_receive=frozenset({Family.IPV4})),
        "010400010001" + "4504" + "00010101",
    ),
    (
        C.ADD_PATH,
        Capabilities(add_path_receive=frozenset({Family.IPV4}), add_path_send=frozenset(Family)),
        "010400010001" + "4508" + "00010103" + "00020102",
    ),
    (C.ENHANCED_REFRESH, Capabilities(enhanced_refresh=True), "010400010001" + "4600"),
    (
        C.LONG_LIVED_GRACEFUL_RESTART,
        Capabilities(
            graceful_restart=GracefulRestart(0, families=frozenset()),
            long_lived=(LongLived(Family.IPV4, 0xFFFFFF, True), LongLived(Family.IPV6, 3600)),
        ),
        "010400010001" + "4002" + "0000" + "470e" + "00010180ffffff" + "00020100000e10",
    ),
    (
        C.LONG_LIVED_GRACEFUL_RESTART,
        Capabilities(graceful_restart=GracefulRestart(0, families=frozenset()), long_lived=()),
        "010400010001" + "4002" + "0000" + "4700",
    ),
]
READ_ONLY = {C.FQDN: (Capabilities(host_name="node1"), "490a" + "056e6f646531" + "03656e64")}


@pytest.mark.parametrize(
    ("code", "offer", "wire"), [pytest.param(*row, id=row[0].name) for row in CAPABILITIES]
)
def test_a_capability_and_its_bytes_are_the_same_both_ways(
    code: CapabilityCode, offer: Capabilities, wire: str
) -> None:
    packed = bytes.fromhex(wire)
    parameters = bytes([2, len(packed)]) + packed
    assert capabilities.encode(offer) == parameters
    assert capabilities.decode(parameters) == offer
    assert code in packed


@pytest.mark.parametrize("code", READ_ONLY)
def test_a_capability_that_is_only_read(code: CapabilityCode) -> None:
    offer, wire = READ_ONLY[code]
    packed = bytes.fromhex(wire)
    assert capabilities.decode(bytes([2, len(packed)]) + packed) == offer


def test_long_lived_graceful_restart_without_graceful_restart_was_not_received() -> None:
    packed = bytes.fromhex("470700010180ffffff")
    assert capabilities.decode(bytes([2, len(packed)]) + packed).long_lived is None


def test_long_lived_graceful_restart_that_is_cut_is_malformed() -> None:
    packed = bytes.fromhex("40020000" + "4706" + "00010180ffff")
    with pytest.raises(NotificationError, match="6 octets"):
        capabilities.decode(bytes([2, len(packed)]) + packed)


def test_every_capability_of_the_registry_has_a_pair() -> None:
    assert {code for code, *_ in CAPABILITIES} | READ_ONLY.keys() == set(CapabilityCode)


SUBCODES = {
    Error.MESSAGE_HEADER: HeaderError,
    Error.OPEN_MESSAGE: OpenError,
    Error.UPDATE_MESSAGE: UpdateError,
    Error.FINITE_STATE_MACHINE: FsmError,
    Error.CEASE: Cease,
    Error.ROUTE_REFRESH_MESSAGE: RefreshError,
}


@pytest.mark.parametrize("code", Error)
def test_every_notification_and_its_bytes_are_the_same_both_ways_and_it_has_words(code: Error) -> None:
    for subcode in SUBCODES.get(code, [0]):
        notification = Notification(code, int(subcode), b"")
        wire = "ff" * 16 + "001503" + bytes([code, int(subcode)]).hex()
        assert messages.encode(notification, WIDE).hex() == wire
        ((kind, body),) = Framing().receive(bytes.fromhex(wire))
        assert messages.decode(kind, body, WIDE) == notification
        names = [one.name.replace("_", " ").lower() for one in (code, subcode) if isinstance(one, IntEnum)]
        assert describe_notification(notification) == f"{', '.join(names)} ({code}/{int(subcode)})"
