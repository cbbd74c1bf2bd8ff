"""What people and other programs write of one value: taken in every form that Calico takes, stored and shown in one.

The forms are tables by sort of field, and each is tried in every field of that sort, of every kind, as it is written by
a person and as it is stored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from agent.datastore.resources.documents import InvalidDocument, read
from agent.datastore.resources.resource_types import KINDS
from agent.datastore.resources.text_forms import (
    address,
    as_number,
    interface,
    log_level,
    mac,
    network,
    peer,
    pool_network,
    strict_network,
)
from agent.datastore.storage_layout import key_by_name, read_valid, stored_bytes, to_document
from agent.datastore.storage_layout import read as read_stored_value
from ipam.etcd.store import Versioned
from ipam.failures import Unreadable

PEER = {"peerIP": "10.0.0.9", "asNumber": 65001}
RULE = {"action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "In"}

Field = tuple[str, str, dict[str, Any], tuple[Any, ...]]
"""Kind, name, a spec, and where in it the field is."""


def rule(**more: Any) -> dict[str, Any]:
    return {"exportV4": [{**RULE, **more}]}


AS_FIELDS: list[Field] = [
    ("Node", "n", {"bgp": {"asNumber": 1}}, ("bgp", "asNumber")),
    ("BGPConfiguration", "default", {"asNumber": 1}, ("asNumber",)),
    ("BGPPeer", "p", PEER, ("asNumber",)),
    ("BGPPeer", "p", {**PEER, "localASNumber": 1}, ("localASNumber",)),
    ("BGPFilter", "f", rule(asPathPrefix=[1, 2]), ("exportV4", 0, "asPathPrefix", 1)),
    (
        "BGPFilter",
        "f",
        rule(operations=[{"prependASPath": {"prefix": [1]}}]),
        ("exportV4", 0, "operations", 0, "prependASPath", "prefix", 0),
    ),
]
AS_FORMS = [("64514", 64514), ("1.10", 65546), ("0.1", 1), ("65535.65535", 4294967295), ("0064514", 64514)]
NO_AS = [
    "x",
    "",
    "1.",
    ".1",
    "1.65536",
    "65536.1",
    "1.2.3",
    "-1",
    "+1",
    " 1",
    "1e3",
    "4294967296",
    "0x1",
    "1_0",
    "٣",
]

RESERVED: Field = ("IPReservation", "r", {"reservedCIDRs": ["10.9.0.0/24", "x"]}, ("reservedCIDRs", 1))
NETWORK_FIELDS: list[Field] = [
    RESERVED,
    *(
        ("BGPConfiguration", "default", {word: [{"cidr": "x"}]}, (word, 0, "cidr"))
        for word in ("serviceClusterIPs", "serviceExternalIPs", "serviceLoadBalancerIPs")
    ),
    (
        "BGPConfiguration",
        "default",
        {"prefixAdvertisements": [{"cidr": "x", "communities": ["1:2"]}]},
        ("prefixAdvertisements", 0, "cidr"),
    ),
]
NETWORK_FORMS = [
    ("10.0.0.1", "10.0.0.1/32"),
    (" 10.0.0.0/8 ", "10.0.0.0/8"),
    ("2001:db8:42:0::/56", "2001:db8:42::/56"),
    ("FD00:10:0245::/64", "fd00:10:245::/64"),
    ("fd00::0001", "fd00::1/128"),
    ("::ffff:10.1.0.0/112", "10.1.0.0/16"),
]
V4_RULE: Field = ("BGPFilter", "f", rule(), ("exportV4", 0, "cidr"))
V6_RULE: Field = ("BGPFilter", "f", {"importV6": [{**RULE, "cidr": "x"}]}, ("importV6", 0, "cidr"))
POOL: Field = ("IPPool", "p", {"cidr": "x"}, ("cidr",))
OTHERS: list[tuple[Field, str, str]] = [
    (RESERVED, "10.0.1.7/24", "10.0.1.0/24"),
    (RESERVED, "FD00:10:0245::1/64", "fd00:10:245::/64"),
    (RESERVED, "::ffff:10.0.0.9/125", "10.0.0.8/29"),
    (V4_RULE, " 10.0.1.0/24", "10.0.1.0/24"),
    (V4_RULE, "10.0.1.7", "10.0.1.7/32"),
    (V6_RULE, "FD00:0::/64", "fd00::/64"),
    (POOL, "2001:db8:42:0::/56", "2001:db8:42::/56"),
    (POOL, "FD00:10:0245::/64", "fd00:10:245::/64"),
    (POOL, " 10.1.0.0/16 ", "10.1.0.0/16"),
    (("Node", "n", {"bgp": {}}, ("bgp", "ipv6Address")), "FD26:0::B/64", "fd26::b/64"),
    (("Node", "n", {"bgp": {}}, ("bgp", "ipv4Address")), "10.0.0.1", "10.0.0.1/32"),
    (("Node", "n", {"bgp": {}}, ("bgp", "ipv4Address")), "10.0.0.1/24", "10.0.0.1/24"),
    (("Node", "n", {}, ("ipv6VXLANTunnelAddr",)), "FD10:0::0001", "fd10::1"),
    (("Node", "n", {}, ("ipv4VXLANTunnelAddr",)), " 10.0.0.1", "10.0.0.1"),
    (("Node", "n", {}, ("vxlanTunnelMACAddr",)), "66-0A-BB-00-00-01", "66:0a:bb:00:00:01"),
    (("Node", "n", {}, ("vxlanTunnelMACAddrV6",)), "660a.bb00.0001", "66:0a:bb:00:00:01"),
    (("BGPPeer", "p", PEER, ("peerIP",)), "FD00:0::9", "fd00::9"),
    (("BGPPeer", "p", PEER, ("peerIP",)), "[FD00:0::9]:1790", "[fd00::9]:1790"),
    (("BGPPeer", "p", PEER, ("peerIP",)), "[fd00::9]", "fd00::9"),
    (("BGPPeer", "p", PEER, ("peerIP",)), "[10.0.0.9]:179", "10.0.0.9:179"),
    (("BGPPeer", "p", PEER, ("peerIP",)), "10.0.0.9:1790", "10.0.0.9:1790"),
    (
        ("BGPPeer", "p", {**PEER, "peerIP": "fd00::9"}, ("reachableBy",)),
        "FD00::0:1",
        "fd00::1",
    ),
    (("BGPConfiguration", "default", {}, ("logSeverityScreen",)), "warning", "Warning"),
]
FORMS: list[tuple[Field, Any, Any]] = [
    *((field, said, meant) for field in AS_FIELDS for said, meant in AS_FORMS),
    *((field, said, meant) for field in NETWORK_FIELDS for said, meant in NETWORK_FORMS),
    *OTHERS,
]
FORM_IDS = [f"{field[0]}.{field[3][-1]}-{said}" for field, said, _ in FORMS]


def document(field: Field, value: Any) -> dict[str, Any]:
    kind, name, spec, path = field
    raw = json.loads(json.dumps(spec))
    at = raw
    for part in path[:-1]:
        at = at[part]
    at[path[-1]] = value
    return {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": raw}


def value_at(raw: Any, path: tuple[Any, ...]) -> Any:
    for part in path:
        raw = raw[part]
    return raw


@pytest.mark.parametrize(("field", "said", "meant"), FORMS, ids=FORM_IDS)
def test_a_value_is_taken_in_each_form_and_stored_and_shown_in_one(
    field: Field, said: Any, meant: Any
) -> None:
    (found,) = read(json.dumps(document(field, said)), "f")
    stored = json.loads(stored_bytes(found.resource, None, found.document))["spec"]
    assert value_at(stored, field[3]) == meant
    assert value_at(to_document(found.resource)["spec"], field[3]) == meant


@pytest.mark.parametrize(("field", "said", "meant"), FORMS, ids=FORM_IDS)
def test_a_stored_value_is_read_in_each_form_and_shown_in_one(field: Field, said: Any, meant: Any) -> None:
    kind, name, _, path = field
    value = Versioned(key_by_name(kind, name), json.dumps(document(field, said)).encode(), 7)
    shown = to_document(read_stored_value(kind, value).resource)["spec"]
    assert value_at(shown, path) == meant
    assert value_at(to_document(read_valid(KINDS[kind], value))["spec"], path) == meant
    written = json.loads(stored_bytes(read_stored_value(kind, value).resource, value))
    if len(path) < 3:  # what is in an object of a list keeps its form until the list is changed
        assert value_at(written["spec"], path) == meant


@pytest.mark.parametrize(
    "field", [*NETWORK_FIELDS[1:], V4_RULE, POOL], ids=lambda field: f"{field[0]}.{field[3]}"
)
def test_host_bits_are_refused_where_calico_does_not_mask_them(field: Field) -> None:
    for said in ("10.0.1.7/24", "fd00::1/64")[: 1 if field == V4_RULE else 2]:
        raw = document(field, said)
        with pytest.raises(InvalidDocument, match=f"{said} has host bits set"):
            read(json.dumps(raw), "f")
        with pytest.raises(Unreadable):
            read_valid(
                KINDS[field[0]], Versioned(key_by_name(field[0], field[1]), json.dumps(raw).encode(), 7)
            )


@pytest.mark.parametrize("field", AS_FIELDS, ids=lambda field: f"{field[0]}.{field[3][-1]}")
def test_what_is_no_as_number_is_said_in_a_sentence_that_names_the_field(field: Field) -> None:
    for said in NO_AS:
        if said == "" and field[3][-1] == "asNumber":
            continue  # an empty text is no number of its own, but nothing at all
        raw = document(field, said)
        with pytest.raises(InvalidDocument) as caught:
            read(json.dumps(raw), "f")
        (sentence,) = caught.value.sentences
        assert "which is no AS number; write 64512, or asdot in quotes" in sentence, said
        value = Versioned(key_by_name(field[0], field[1]), json.dumps(raw).encode(), 7)
        with pytest.raises(Unreadable):
            read_valid(KINDS[field[0]], value)


def test_asdot_without_quotes_is_a_number_with_a_fraction_and_the_sentence_says_so() -> None:
    with pytest.raises(InvalidDocument) as caught:
        read("kind: BGPPeer\nmetadata: {name: p}\nspec:\n  peerIP: 10.0.0.1\n  asNumber: 1.10\n", "f")
    assert caught.value.sentences == [
        "f: line 5: BGPPeer p: spec.asNumber: expected int | null, got float, which is no AS number; "
        'write 64512, or asdot in quotes: "1.10"'
    ]


def test_a_network_with_host_bits_is_taken_masked_and_a_note_says_so() -> None:
    (found,) = read(
        "kind: IPReservation\nmetadata: {name: r}\nspec:\n  reservedCIDRs:\n  - 10.0.0.1\n  - 192.168.16.66/30\n",
        "f",
    )
    assert [found.error(note) for note in found.notes] == [
        "f: line 6: IPReservation r: spec.reservedCIDRs[1]: 192.168.16.66/30 has host bits set; "
        "it is taken as 192.168.16.64/30"
    ]
    (node,) = read(
        json.dumps(document(("Node", "n", {"bgp": {}}, ("bgp", "ipv4Address")), "10.0.0.1/24")), "f"
    )
    assert node.notes == ()


def test_networks_that_are_the_same_when_masked_are_reserved_once() -> None:
    raw = {"reservedCIDRs": ["10.0.0.1/24", " 10.0.0.0/24", "", None, "10.0.1.1"]}
    (found,) = read(
        json.dumps(document(("IPReservation", "r", raw, ("reservedCIDRs",)), raw["reservedCIDRs"])), "f"
    )
    assert to_document(found.resource)["spec"] == {"reservedCIDRs": ["10.0.0.0/24", "10.0.1.1/32"]}


EMPTY: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    (
        "BGPPeer",
        "templated",
        {
            "node": "",
            "nodeSelector": "all()",
            "peerIP": "172.26.0.1:1790",
            "peerSelector": "",
            "asNumber": 65001,
            "keepOriginalNextHop": False,
            "nextHopMode": None,
            "reachableBy": "",
            "sourceAddress": "UseNodeIP",
            "maxRestartTime": None,
            "password": None,
            "localASNumber": None,
            "ttlSecurity": None,
            "filters": [],
        },
        {
            "nodeSelector": "all()",
            "peerIP": "172.26.0.1:1790",
            "asNumber": 65001,
            "sourceAddress": "UseNodeIP",
        },
    ),
    (
        "IPPool",
        "templated",
        {
            "cidr": "10.62.0.0/16",
            "ipipMode": "Never",
            "vxlanMode": "",
            "natOutgoing": None,
            "nodeSelector": None,
            "namespaceSelector": "",
            "blockSize": None,
            "disabled": None,
            "allowedUses": None,
            "assignmentMode": None,
        },
        {"cidr": "10.62.0.0/16", "ipipMode": "Never"},
    ),
    (
        "Node",
        "n",
        {"bgp": {"asNumber": None, "ipv4Address": ""}, "ipv4VXLANTunnelAddr": None, "orchRefs": None},
        {},
    ),
    ("Node", "n", {"bgp": None, "wireguard": None}, {}),
    ("BGPConfiguration", "default", {"logSeverityScreen": "", "listenPort": 0, "communities": None}, {}),
    (
        "BGPFilter",
        "f",
        {"exportV4": [{**RULE, "source": "", "interface": None}], "importV4": None},
        {"exportV4": [RULE]},
    ),
    ("IPReservation", "r", {"reservedCIDRs": None}, {}),
    ("IPReservation", "r", {"reservedCIDRs": ["", None]}, {}),
]


@pytest.mark.parametrize(
    ("kind", "name", "spec", "meant"), EMPTY, ids=[f"{case[0]}-{index}" for index, case in enumerate(EMPTY)]
)
def test_empty_texts_and_nulls_are_as_not_given(
    kind: str, name: str, spec: dict[str, Any], meant: dict[str, Any]
) -> None:
    raw = {
        "kind": kind,
        "metadata": {"name": name, "labels": None, "annotations": None, "creationTimestamp": None},
    }
    (found,) = read(json.dumps({**raw, "spec": spec}), "f")
    (plain,) = read(json.dumps({"kind": kind, "metadata": {"name": name}, "spec": meant}), "f")
    assert with_empty_lists(to_document(found.resource)) == with_empty_lists(to_document(plain.resource))


def with_empty_lists(value: Any) -> Any:
    """An empty list of a field says what its absence says."""
    if isinstance(value, dict):
        return {name: with_empty_lists(inside) for name, inside in value.items() if inside != []}
    return value


def test_a_spec_of_null_is_one_without_fields() -> None:
    (found,) = read("kind: BGPConfiguration\nmetadata: {name: default}\nspec:\n", "f")
    assert to_document(found.resource)["spec"] == {}
    with pytest.raises(InvalidDocument, match="missing required field spec"):
        read("kind: IPPool\nmetadata: {name: p}\nspec:\n", "f")


def test_a_default_that_somebody_wrote_out_is_stored() -> None:
    said: Iterator[tuple[str, str, dict[str, Any]]] = iter(
        (
            (
                "IPPool",
                "p",
                {"cidr": "10.0.0.0/16", "ipipMode": "Never", "nodeSelector": "all()", "disabled": False},
            ),
            ("BGPConfiguration", "default", {"nodeToNodeMeshEnabled": True, "logSeverityScreen": "Info"}),
            ("BGPPeer", "p", {**PEER, "keepOriginalNextHop": False}),
        )
    )
    for kind, name, spec in said:
        (found,) = read(json.dumps({"kind": kind, "metadata": {"name": name}, "spec": spec}), "f")
        first = stored_bytes(found.resource, None, found.document)
        assert json.loads(first)["spec"] == spec
        again = stored_bytes(found.resource, Versioned(key_by_name(kind, name), first, 7))
        assert json.loads(again)["spec"] == spec


def test_a_text_that_is_long_is_not_remembered() -> None:
    for form in (network, strict_network, pool_network, address, interface, peer, mac, log_level):
        text = " " * 200 + "10.0.0.0/8"
        assert form(text) is text
    assert as_number("1" * 1_000_000) == "1" * 1_000_000
