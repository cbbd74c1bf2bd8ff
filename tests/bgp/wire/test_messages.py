"""Bytes and messages, both ways: golden pairs, round trips, and what a wrong one is answered with."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgp.rib.adj_rib_out import AdjRibOut
from bgp.wire import capabilities, messages, nlri
from bgp.wire.attributes import SPECS, Context, PathAttributes, prepended
from bgp.wire.capabilities import Capabilities, GracefulRestart
from bgp.wire.errors import NotificationError
from bgp.wire.families import Family
from bgp.wire.framing import LARGEST_MESSAGE, Framing, frame
from bgp.wire.iana import Attribute, MessageType, SegmentType
from bgp.wire.messages import Keepalive, Message, Notification, Open, RouteRefresh, Subtype, Update

WIDE = Context(four_octet_as=True, internal=True)
MARK = "ff" * 16
BLOCK = nlri.pack(IPv4Network("192.168.31.64/26"))

GOLDEN: list[tuple[str, Message, str]] = [
    ("keepalive", Keepalive(), MARK + "001304"),
    ("end-of-rib", Update(), MARK + "00170200000000"),
    ("refresh", RouteRefresh(), MARK + "00170500010001"),
    ("beginning of a refresh", RouteRefresh(1, 1, Subtype.BEGIN), MARK + "00170500010101"),
    ("end of a refresh", RouteRefresh(2, 1, Subtype.END), MARK + "00170500020201"),
    ("hold timer expired", Notification(4, 0), MARK + "0015030400"),
    ("shutdown with a text", Notification(6, 2, b"\x03bye"), MARK + "001903060203627965"),
    ("withdrawal", Update((BLOCK,)), MARK + "001c020005" + "1ac0a81f40" + "0000"),
    (
        "own block to an iBGP peer",
        Update((), PathAttributes(next_hop=IPv4Address("172.26.5.10"), local_pref=100), (BLOCK,)),
        MARK
        + "0031020000"
        + "0015"
        + "40010100"
        + "400200"
        + "400304ac1a050a"
        + "40050400000064"
        + "1ac0a81f40",
    ),
    (
        "own block to an eBGP peer",
        Update((), PathAttributes(0, prepended((), 64512), IPv4Address("172.26.5.10")), (BLOCK,)),
        MARK
        + "0030020000"
        + "0014"
        + "40010100"
        + "4002060201"
        + "0000fc00"
        + "400304ac1a050a"
        + "1ac0a81f40",
    ),
    (
        "open with graceful restart",
        Open(
            64512,
            90,
            IPv4Address("172.26.5.10"),
            Capabilities(
                four_octet_as=64512,
                route_refresh=True,
                extended_message=True,
                graceful_restart=GracefulRestart(
                    120, restarting=True, notification=True, forwarding_preserved=frozenset({Family.IPV4})
                ),
            ),
        ),
        MARK
        + "003701"
        + "04fc00005aac1a050a"
        + "1a0218"
        + "010400010001"
        + "0200"
        + "0600"
        + "4006c07800010180"
        "41040000fc00",
    ),
    (
        "open of a four-octet AS",
        Open(4200000000, 0, IPv4Address("10.0.0.1"), Capabilities(four_octet_as=4200000000)),
        MARK + "002b01" + "045ba000000a000001" + "0e020c" + "010400010001" + "4104fa56ea00",
    ),
]


@pytest.mark.parametrize(("message", "wire"), [pytest.param(m, w, id=name) for name, m, w in GOLDEN])
def test_a_message_and_its_bytes_are_the_same_both_ways(message: Message, wire: str) -> None:
    assert messages.encode(message, WIDE).hex() == wire
    ((kind, body),) = Framing().receive(bytes.fromhex(wire))
    assert messages.decode(kind, body, WIDE) == message


SAMPLES = PathAttributes(
    origin=1,
    as_path=((SegmentType.AS_SEQUENCE, (64512, 4200000000)),),
    next_hop=IPv4Address("10.0.0.1"),
    med=7,
    local_pref=200,
    atomic_aggregate=True,
    aggregator=(64512, IPv4Address("10.0.0.2")),
    communities=(0xFC000001, 0xFFFFFF01),
    originator_id=IPv4Address("10.0.0.3"),
    cluster_list=(IPv4Address("10.0.0.4"), IPv4Address("10.0.0.5")),
    extended_communities=(bytes(range(8)),),
    large_communities=(bytes(range(12)),),
    unknown=((0xE0, 99, b"what"),),
)


def test_every_attribute_of_the_table_survives_a_round_trip() -> None:
    """One sample fills them all, so a new row without a sample fails here."""
    default = PathAttributes()
    assert [
        spec.field for spec in SPECS.values() if getattr(SAMPLES, spec.field) == getattr(default, spec.field)
    ] == []
    update = Update((), SAMPLES, (BLOCK,))
    ((kind, body),) = Framing().receive(messages.encode(update, WIDE))
    assert messages.decode(kind, body, WIDE) == update


prefixes = st.builds(
    lambda number, length: IPv4Network((number, length), strict=False),
    st.integers(0, 2**32 - 1),
    st.integers(0, 32),
)


@given(st.lists(prefixes, max_size=50))
def test_prefixes_survive_a_round_trip(networks: list[IPv4Network]) -> None:
    packed = [nlri.pack(network) for network in networks]
    assert nlri.split(b"".join(packed)) == packed
    assert [nlri.unpack(one) for one in packed] == networks


def test_bits_behind_the_length_of_a_prefix_do_not_count() -> None:
    assert nlri.split(bytes([26, 10, 0, 0, 0x7F])) == [nlri.pack(IPv4Network("10.0.0.64/26"))]


@given(st.lists(st.integers(0, 400), max_size=20), st.randoms(use_true_random=False))
def test_a_stream_may_be_cut_anywhere(sizes: list[int], random: object) -> None:
    stream = b"".join(frame(MessageType.UPDATE, bytes(size + 4)) for size in sizes)
    framing, found, offset = Framing(), [], 0
    while offset < len(stream):
        step = random.randint(1, 500)  # type: ignore[attr-defined]
        found += framing.receive(stream[offset : offset + step])
        offset += step
    assert [len(body) for _, body in found] == [size + 4 for size in sizes]


HEADERS = [
    ("marker", "00" + "ff" * 15 + "001304", (1, 1), ""),
    ("too short", MARK + "001204", (1, 2), "0012"),
    ("too long", MARK + "100102", (1, 2), "1001"),
    ("keepalive with a body", MARK + "001404", (1, 2), "0014"),
    ("open too short", MARK + "001c01", (1, 2), "001c"),
    ("update too short", MARK + "001602", (1, 2), "0016"),
    ("notification too short", MARK + "001403", (1, 2), "0014"),
    ("refresh too short", MARK + "001605", (1, 2), "0016"),
    ("type 0", MARK + "001300", (1, 3), "00"),
    ("type 6", MARK + "001306", (1, 3), "06"),
]


@pytest.mark.parametrize(("wire", "answer", "data"), [pytest.param(*row, id=name) for name, *row in HEADERS])
def test_a_wrong_header_is_answered_without_waiting_for_its_body(
    wire: str, answer: object, data: str
) -> None:
    with pytest.raises(NotificationError) as caught:
        list(Framing().receive(bytes.fromhex(wire)))
    assert ((caught.value.code, caught.value.subcode), caught.value.data.hex()) == (answer, data)


def test_an_extended_message_is_taken_only_where_it_was_agreed_and_never_as_open() -> None:
    wire = frame(MessageType.UPDATE, bytes(5000))
    with pytest.raises(NotificationError):
        list(Framing().receive(wire))
    framing = Framing()
    framing.largest = 65535
    assert len(list(framing.receive(wire))) == 1
    with pytest.raises(NotificationError):
        list(framing.receive(frame(MessageType.OPEN, bytes(5000))))


def opened(
    parameters: str, *, version: int = 4, asn: int = 64512, hold: int = 90, router_id: str = "0a000001"
) -> bytes:
    body = bytes.fromhex(parameters)
    head = bytes([version]) + asn.to_bytes(2, "big") + hold.to_bytes(2, "big") + bytes.fromhex(router_id)
    return head + bytes([min(len(body), 255)]) + body


OPENS = [
    ("version 3", opened("", version=3), (2, 1)),
    ("hold time 1", opened("", hold=1), (2, 6)),
    ("hold time 2", opened("", hold=2), (2, 6)),
    ("identifier 0", opened("", router_id="00000000"), (2, 3)),
    ("AS 0", opened("", asn=0), (2, 2)),
    ("AS 0 as capability", opened("0206410400000000"), (2, 2)),
    ("parameter 1", opened("0102ffff"), (2, 4)),
    ("parameter overruns", opened("0209410400000001"), (2, 0)),
    ("capability overruns", opened("0203410400"), (2, 0)),
    ("AS4 of three octets", opened("02054103000001"), (2, 0)),
    ("multiprotocol of two octets", opened("020401020001"), (2, 0)),
    ("restart of one octet", opened("0203400100"), (2, 0)),
    ("restart with half a family", opened("020640040078" + "0001"), (2, 0)),
    ("ADD-PATH of three octets", opened("02054503000101"), (2, 0)),
    ("RFC 9072 length lies", opened("ff0010" + "02000241"), (2, 0)),
    ("RFC 9072 without a length", opened("ff00"), (2, 0)),
    ("RFC 9072 parameter overruns", opened("ff0005" + "02000941" + "04"), (2, 0)),
    ("length field lies", opened("")[:-1] + b"\x05", (2, 0)),
]


@pytest.mark.parametrize(("body", "answer"), [pytest.param(*row, id=name) for name, *row in OPENS])
def test_a_wrong_open_has_its_answer(body: bytes, answer: tuple[int, int]) -> None:
    with pytest.raises(NotificationError) as caught:
        messages.decode(MessageType.OPEN, body, WIDE)
    assert (caught.value.code, caught.value.subcode) == answer


def test_long_optional_parameters_are_read_in_the_form_of_rfc_9072() -> None:
    inside = bytes.fromhex("02000e" + "010400010001" + "02004104fa56ea00")
    for shown in (b"\xff", b"\x01", bytes([len(inside) + 3])):  # section 2: whatever it says, if not zero
        body = opened("", asn=23456)[:-1] + shown + b"\xff" + len(inside).to_bytes(2, "big") + inside
        found = messages.decode(MessageType.OPEN, body, WIDE)
        assert isinstance(found, Open)
        assert (found.asn, found.offer.route_refresh) == (4200000000, True)


def test_hundreds_of_octets_of_parameters_are_read_in_the_form_of_rfc_9072() -> None:
    inside = b"".join(b"\x02" + (4).to_bytes(2, "big") + bytes([200, 2, 1, 2]) for _ in range(60))
    inside += bytes.fromhex("020006" + "4104fa56ea00")
    body = opened("", asn=23456)[:-1] + b"\xff\xff" + len(inside).to_bytes(2, "big") + inside
    found = messages.decode(MessageType.OPEN, body, WIDE)
    assert isinstance(found, Open)
    assert (len(inside) > 255, found.asn) == (True, 4200000000)


def test_exactly_255_octets_of_parameters_are_read_in_the_form_of_rfc_4271() -> None:
    filler = bytes([200, 239]) + bytes(239)
    inside = bytes([2, len(filler) + 6]) + filler + bytes.fromhex("4104fa56ea00")
    inside += bytes([2, 253 - len(inside)]) + bytes([201, 251 - len(inside)]) + bytes(251 - len(inside))
    assert len(inside) == 255
    found = messages.decode(MessageType.OPEN, opened("", asn=23456)[:-1] + b"\xff" + inside, WIDE)
    assert isinstance(found, Open)
    assert found.asn == 4200000000


def test_unknown_capabilities_and_the_name_of_the_host_are_taken_as_they_are() -> None:
    offer = capabilities.decode(bytes.fromhex("0210" + "c802abcd" + "490a" + "056e6f64653103656e64"))
    assert offer.host_name == "node1"
    assert offer.families == {Family.IPV4}


@settings(max_examples=300)
@given(st.sampled_from([m for _, m, _ in GOLDEN] + [Update((), SAMPLES, (BLOCK,))]), st.data())
def test_a_mutated_message_raises_nothing_but_a_notification(message: Message, data: st.DataObject) -> None:
    wire = bytearray(messages.encode(message, WIDE))
    for _ in range(data.draw(st.integers(1, 4))):
        wire[data.draw(st.integers(16, len(wire) - 1))] = data.draw(st.integers(0, 255))
    try:
        for kind, body in Framing().receive(bytes(wire)):
            found = messages.decode(kind, body, WIDE)
            if isinstance(found, Update) and found.attributes is not None:
                messages.encode(found, WIDE)
    except NotificationError:
        pass


def test_the_attributes_with_a_marshalled_length_over_255_use_the_extended_form() -> None:
    many = PathAttributes(next_hop=IPv4Address("10.0.0.1"), communities=tuple(range(1, 101)))
    update = Update((), many, (BLOCK,))
    ((kind, body),) = Framing().receive(messages.encode(update, WIDE))
    assert messages.decode(kind, body, WIDE) == update
    assert bytes([0xD0, Attribute.COMMUNITIES, 0x01, 0x90]) in body


# -- packing ----------------------------------------------------------------------------------------------------------


def drain(out: AdjRibOut) -> list[Update]:
    found = []
    while (update := out.next_message(WIDE, LARGEST_MESSAGE)) is not None:
        found.append(update)
        assert len(messages.encode(update, WIDE)) <= LARGEST_MESSAGE
    return found


def of(last: int) -> PathAttributes:
    return PathAttributes(next_hop=IPv4Address(f"10.0.0.{last}"), local_pref=100)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3), st.booleans()), max_size=80))
def test_a_peer_ends_with_what_was_desired_whatever_came_in_between(
    wishes: list[tuple[int, int, bool]],
) -> None:
    out, peer, wanted = AdjRibOut(), {}, {}
    for number, last, send in wishes:
        prefix = nlri.pack(IPv4Network((10 << 24 | number << 8, 24)))
        out.set(prefix, of(last) if last else None)
        wanted[prefix] = of(last) if last else None
        for update in drain(out) if send else ():
            for gone in update.withdrawn:
                assert gone in peer, "a withdrawal of what was never told"
                del peer[gone]
            for told in update.announced:
                assert peer.get(told) != update.attributes, "told twice"
                peer[told] = update.attributes
    for update in drain(out):
        for gone in update.withdrawn:
            del peer[gone]
        peer.update(dict.fromkeys(update.announced, update.attributes))
    assert peer == {prefix: attributes for prefix, attributes in wanted.items() if attributes is not None}
    assert len(out) == len(peer)


def test_ten_thousand_prefixes_of_one_kind_fill_their_messages() -> None:
    out = AdjRibOut()
    for number in range(10_000):
        out.set(nlri.pack(IPv4Network((10 << 24 | number << 6, 26))), of(1))
    out.end_of_rib()
    updates = drain(out)
    assert len(updates) == 10_000 * 5 // (4096 - 23 - 24) + 2
    assert updates[-1].is_end_of_rib
    out.readvertise()
    assert sum(len(update.announced) for update in drain(out)) == 10_000


def test_attributes_too_long_for_a_message_withdraw_what_was_advertised_before() -> None:
    out = AdjRibOut()
    out.set(BLOCK, of(1))
    drain(out)
    out.set(BLOCK, PathAttributes(next_hop=IPv4Address("10.0.0.1"), communities=tuple(range(1, 1020))))
    assert drain(out) == [Update((BLOCK,))]
