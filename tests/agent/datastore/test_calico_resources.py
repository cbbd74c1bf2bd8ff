"""Resources as Calico stores them, each field that Go leaves out missing, null, zero, empty and set.

Null and the zero value are read as a missing field is; what is written back has every field as it was stored, and none
more. The documents are made from whole ones, field by field.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from agent.datastore.resources.resource_types import (
    KINDS,
    BGPConfiguration,
    BGPPeer,
    IPReservation,
    Node,
    WorkloadEndpoint,
    kind_of,
    with_revision,
)
from agent.datastore.resources.validation import validate
from agent.datastore.state_cache import StateCache
from agent.datastore.storage_layout import pool_record, read, read_valid, stored_bytes
from ipam.etcd.store import Versioned
from ipam.failures import Unreadable
from ipam.keys import resource_key
from ipam.model import AssignmentMode, EncapsulationMode, Use
from tests.scenes.datastore.damages import ME, RESERVATION, RESOURCES, Good, document

GOOD = (*RESOURCES, RESERVATION)
ZEROS: dict[type, Any] = {str: "", bool: False, list: [], dict: {}, int: 0}
REQUIRED = {
    "IPPool": {"cidr"},
    "BGPConfiguration": {"name", "value", "cidr", "key"},
    "BGPPeer": {"name", "key"},
    "BGPFilter": {"action", "values", "value", "prefix"},
    "BFDConfiguration": set(),
    "Node": {"address", "orchestrator", "interfaceIPv4Address"},
    "WorkloadEndpoint": {"node", "orchestrator", "endpoint", "interfaceName"},
    "IPReservation": set(),
}
"""Kind -> what Calico always writes, or refuses to do without."""
OBJECTS = {
    *("bgp", "password", "nodeMeshPassword", "secretKeyRef", "prefixLength", "communities", "wireguard"),
    *("addCommunity", "prependASPath", "setPriority"),
}
"""Fields that hold an object: null there is refused (decision 31), and an empty one is what it says."""
POINTERS = {
    *("nodeToNodeMeshEnabled", "assignmentMode", "maxRestartTime", "keepaliveTime", "nodeMeshMaxRestartTime"),
    *("numAllowedLocalASNumbers", "ttlSecurity", "localASNumber", "min", "max", "priority", "optional"),
    *("minimumRecvInterval", "minimumSendInterval", "idleSendInterval"),
}
"""Pointers in Go: their zero value says something, such as no mesh."""


def paths(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in inside:
        if isinstance(name, str):
            yield (*above, name)
        yield from paths(one, (*above, name))


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for name in path:
        value = value[name]
    return value


def changed(good: Good, path: tuple[Any, ...], *value: Any) -> Versioned:
    """With another value for a field, or without the field."""
    raw = json.loads(good.value)
    above = at(raw, path[:-1])
    if value:
        above[path[-1]] = value[0]
    else:
        del above[path[-1]]
    return Versioned(good.key, json.dumps(raw).encode(), 7)


def outcome(stored: Versioned, kind: str) -> object:
    """What is read, or why it cannot be."""
    try:
        return with_revision(read_valid(KINDS[kind], stored), None)
    except Unreadable as error:
        return error.why


def optional(good: Good) -> list[tuple[Any, ...]]:
    raw = json.loads(good.value)
    return [
        path
        for path in paths(raw["spec"], ("spec",))
        if path[-1] not in REQUIRED[good.kind] | OBJECTS and isinstance(path[-1], str)
    ]


def is_pointer(kind: str, name: str) -> bool:
    """An AS number is a pointer in all kinds but BGPPeer."""
    return name in POINTERS or (name == "asNumber" and kind != "BGPPeer")


@pytest.mark.parametrize("good", GOOD, ids=lambda good: good.kind)
def test_null_and_zero_are_read_as_a_missing_field(good: Good) -> None:
    tried = 0
    for path in optional(good):
        missing = outcome(changed(good, path), good.kind)
        was = at(json.loads(good.value), path)
        assert outcome(changed(good, path, None), good.kind) == missing, path
        if not is_pointer(good.kind, path[-1]) and type(was) is not list:
            assert outcome(changed(good, path, ZEROS[type(was)]), good.kind) == missing, path
        tried += 1
    assert tried >= 1


@pytest.mark.parametrize("good", GOOD, ids=lambda good: good.kind)
def test_what_is_written_back_has_every_field_as_it_was_stored_and_none_more(good: Good) -> None:
    variants = [Versioned(good.key, good.value, 7)]
    for path in optional(good):
        was = at(json.loads(good.value), path)
        variants += [changed(good, path), changed(good, path, None), changed(good, path, ZEROS[type(was)])]
    kept = 0
    for stored in variants:
        with_more = json.loads(stored.value) | {"status": {"a": [1]}, "later": None}
        with_more["metadata"] |= {"generation": 3, "managedFields": [{}]}
        with_more["spec"]["later"] = {"x": 0}
        stored = Versioned(stored.key, json.dumps(with_more).encode(), 7)
        try:
            resource = read(good.kind, stored).resource
        except Unreadable:
            continue
        assert json.loads(stored_bytes(with_revision(resource, None), stored)) == with_more
        kept += 1
    assert kept > len(variants) / 2


def test_a_field_that_was_changed_is_written_and_one_that_was_taken_away_is_gone() -> None:
    good = next(good for good in GOOD if good.kind == "BGPFilter")
    raw = json.loads(good.value)
    raw["spec"]["exportV4"][0] |= {"later": 1}
    stored = Versioned(good.key, json.dumps(raw).encode(), 7)
    raw["spec"] = {"importV4": [{"action": "Reject"}]}
    written = stored_bytes(read(good.kind, Versioned(good.key, json.dumps(raw).encode(), 7)).resource, stored)
    assert json.loads(written)["spec"] == raw["spec"]


def test_a_label_that_is_null_is_there_and_empty_as_go_reads_it() -> None:
    good = next(good for good in GOOD if good.kind == "Node")
    found = read_valid(Node, changed(good, ("metadata", "labels", "rack"), None))
    assert found.metadata.labels == {"rack": ""}


def pool(**spec: Any) -> Versioned:
    key = resource_key("ippools", "p")
    return Versioned(key, document("IPPool", "p", {"cidr": "10.9.0.0/16", **spec}), 7)


@pytest.mark.parametrize("empty", ["missing", "null", "zero"])
def test_a_pool_without_its_optional_fields_is_calicos_default_pool(empty: str) -> None:
    zeros: dict[str, Any] = {
        **dict.fromkeys(("ipipMode", "vxlanMode", "nodeSelector", "namespaceSelector"), ""),
        **dict.fromkeys(("natOutgoing", "disabled", "disableBGPExport"), False),
        "blockSize": 0,
        "allowedUses": [],
    }
    if empty == "null":
        zeros = dict.fromkeys([*zeros, "assignmentMode"])
    found = pool_record(pool(**({} if empty == "missing" else zeros))).pool
    assert (found.ipip, found.vxlan) == (EncapsulationMode.NEVER, EncapsulationMode.NEVER)
    assert (found.nat_outgoing, found.disabled, found.disable_bgp_export) == (False, False, False)
    assert (found.block_length, found.node_selector) == (26, "all()")
    assert found.allowed_uses == {Use.WORKLOAD, Use.TUNNEL}
    assert found.assignment_mode is AssignmentMode.AUTOMATIC


@pytest.mark.parametrize(
    ("spec", "mesh", "number", "port"),
    [
        ({}, True, 64512, None),
        ({"nodeToNodeMeshEnabled": None, "asNumber": None, "listenPort": None}, True, 64512, None),
        ({"nodeToNodeMeshEnabled": True, "asNumber": 64512, "listenPort": 0}, True, 64512, None),
        ({"nodeToNodeMeshEnabled": False, "asNumber": 65000, "listenPort": 1790}, False, 65000, 1790),
    ],
)
def test_the_settings_of_bgp_are_read_as_calico_means_them(
    spec: dict[str, Any], *, mesh: bool, number: int, port: int | None
) -> None:
    state = StateCache(ME)
    key = resource_key("bgpconfigurations", "default")
    state.apply(key, Versioned(key, document("BGPConfiguration", "default", spec), 7))
    assert list(state.unreadable.troubles()) == []
    found = state.bgp_configuration
    assert (found.has_mesh, found.default_as_number, found.listen_port) == (mesh, number, port)


def test_what_a_person_writes_of_the_mesh_is_stored_though_it_is_the_default() -> None:
    raw = document("BGPConfiguration", "default", {"nodeToNodeMeshEnabled": True, "asNumber": 64512})
    key = resource_key("bgpconfigurations", "default")
    found = read_valid(BGPConfiguration, Versioned(key, raw, 7))
    assert json.loads(stored_bytes(found, None))["spec"] == json.loads(raw)["spec"]


@pytest.mark.parametrize(
    "spec",
    [
        {"peerIP": "10.0.0.9", "asNumber": 65001, "node": "", "nodeSelector": "", "peerSelector": ""},
        {"peerSelector": "all()", "nodeSelector": "all()", "peerIP": "", "asNumber": 0, "node": None},
        {
            "peerIP": "10.0.0.9",
            "asNumber": 65001,
            "reachableBy": "",
            "sourceAddress": "",
            "nextHopMode": None,
        },
    ],
)
def test_empty_fields_of_a_peer_exclude_no_other(spec: dict[str, Any]) -> None:
    key = resource_key("bgppeers", "p")
    found = read_valid(BGPPeer, Versioned(key, document("BGPPeer", "p", spec), 7))
    assert validate(found) == []
    assert kind_of(found) == "BGPPeer"


@pytest.mark.parametrize("networks", [(), (None,), ([],)])
def test_an_endpoint_without_addresses_is_one(networks: tuple[Any, ...]) -> None:
    good = next(good for good in GOOD if good.kind == "WorkloadEndpoint")
    found = read_valid(WorkloadEndpoint, changed(good, ("spec", "ipNetworks"), *networks))
    assert found.addresses == ()


def test_a_reservation_is_shown_and_stored_in_one_form() -> None:
    key = RESERVATION.key
    raw = document(
        "IPReservation", "kept", {"reservedCIDRs": ["192.168.0.9/17", " 10.0.0.1 ", "", "FD00::0/64"]}
    )
    found = read("IPReservation", Versioned(key, raw, 7)).resource
    assert isinstance(found, IPReservation)
    assert found.spec.reserved_cidrs == ["192.168.0.0/17", "10.0.0.1/32", "fd00::/64"]
    assert json.loads(stored_bytes(found, None))["spec"] == {"reservedCIDRs": found.spec.reserved_cidrs}


# -- what Calico's controllers note in a pool -------------------------------------------------------------------------


def a_pool(**noted: Any) -> Versioned:
    """A stored pool, with fields of its metadata and with its status."""
    raw = json.loads(RESOURCES[0].value)
    raw["metadata"] |= noted.pop("metadata", {})
    return Versioned(RESOURCES[0].key, json.dumps({**raw, **noted}).encode(), 7)


def allocatable(value: object, **more: str) -> dict[str, Any]:
    return {
        "conditions": [{"type": "Other", "status": "False"}, {"type": "Allocatable", "status": value, **more}]
    }


@pytest.mark.parametrize(
    ("noted", "withdrawn"),
    [
        ({}, ""),
        ({"metadata": {"deletionTimestamp": None}}, ""),
        (
            {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}},
            "is being deleted (deletionTimestamp 2026-",
        ),
        ({"status": None}, ""),
        ({"status": {}}, ""),
        ({"status": {"conditions": None}}, ""),
        ({"status": allocatable("True", reason="OK")}, ""),
        ({"status": allocatable("Unknown")}, ""),
        ({"status": allocatable("False", reason="CIDROverlap")}, "is not allocatable (CIDROverlap)"),
        ({"status": allocatable("False")}, "is not allocatable (no reason given)"),
    ],
)
def test_a_pool_that_is_being_deleted_or_not_allocatable_gives_nothing_new_and_keeps_its_routes(
    noted: dict[str, Any], withdrawn: str
) -> None:
    found = pool_record(a_pool(**noted))
    assert found.withdrawn.startswith(withdrawn)
    assert (found.refusal is None) is (withdrawn == "")
    assert found.pool == pool_record(a_pool()).pool


@pytest.mark.parametrize(
    "status", ["x", [], 5, {"conditions": {}}, {"conditions": "x"}, {"conditions": [None]}]
)
def test_a_status_that_cannot_be_read_makes_the_pool_unreadable(status: object) -> None:
    with pytest.raises(Unreadable, match=r"status|conditions"):
        pool_record(a_pool(status=status))


def test_a_namespace_selector_is_read_and_one_that_is_none_is_refused() -> None:
    raw = json.loads(RESOURCES[0].value)
    raw["spec"]["namespaceSelector"] = "env == 'prod'"
    assert pool_record(Versioned(RESOURCES[0].key, json.dumps(raw).encode(), 7)).pool.namespace_selector
    raw["spec"]["namespaceSelector"] = "env ="
    with pytest.raises(Unreadable, match=r"spec\.namespaceSelector: unexpected '='"):
        pool_record(Versioned(RESOURCES[0].key, json.dumps(raw).encode(), 7))
