"""A record of our own that nobody can read: kept aside, and then written anew with all that is known of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.datastore.set_aside import MOST_FILES, SetAside
from agent.node.own_record import OwnRecord
from ipam.etcd.store import Versioned
from ipam.failures import Malformed
from ipam.keys import resource_key
from ipam.model import NodeName
from tests.scenes.datastore.damages import Good, byte_damages, damages, document

ME = NodeName("node1")
KEY = resource_key("nodes", ME)
SPEC: dict[str, Any] = {
    "bgp": {"ipv4Address": "172.26.0.11/20", "asNumber": 64999},
    "ipv4VXLANTunnelAddr": "10.9.0.1",
    "odd": 1,
}
GOOD = Good("Node", KEY, document("Node", ME, SPEC))


def fresh() -> dict[str, Any]:
    return {"kind": "Node", "metadata": {"name": ME, "uid": "fresh"}, "spec": {}}


def record(state: Path) -> OwnRecord:
    return OwnRecord(ME, SetAside(state), fresh)


def kept(state: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((state / "unreadable").iterdir())]


def test_what_was_last_read_takes_the_place_of_whatever_nobody_can_read(tmp_path: Path) -> None:
    own = record(tmp_path)
    assert own.document(Versioned(KEY, GOOD.value, 1)) == (json.loads(GOOD.value), True)
    for number, damage in enumerate(byte_damages(GOOD), 2):
        assert own.document(Versioned(KEY, damage.value, number)) == (json.loads(GOOD.value), False), (
            damage.name
        )
        assert damage.value in kept(tmp_path)


@pytest.mark.parametrize(
    ("change", "left"),
    [
        (
            {"bgp": {"ipv4Address": "172.26.0.11/20", "asNumber": 0}},
            {"bgp": {"ipv4Address": "172.26.0.11/20"}},
        ),
        (
            {"bgp": {"ipv4Address": "172.26.0.11/20", "asNumber": -5}},
            {"bgp": {"ipv4Address": "172.26.0.11/20"}},
        ),
        ({"bgp": {"asNumber": 10**18}}, {"bgp": {}}),
        ({"bgp": {"ipv4Address": "0.0.0.0/0", "asNumber": 64999}}, {"bgp": {"asNumber": 64999}}),
        ({"bgp": None}, {}),
        ({"bgp": []}, {}),
        ({"vxlanTunnelMACAddr": "zz", "bgp": SPEC["bgp"]}, {"bgp": SPEC["bgp"]}),
    ],
)
def test_after_a_start_what_of_it_can_be_used_is_used(
    change: dict[str, Any], left: dict[str, Any], tmp_path: Path
) -> None:
    raw = json.loads(GOOD.value)
    raw["spec"] = {**change, "odd": 1}
    found, is_stored = record(tmp_path).document(Versioned(KEY, json.dumps(raw).encode(), 7))
    assert not is_stored
    assert found["spec"] == {**left, "odd": 1}
    assert found["metadata"]["labels"] == {"rack": "r1"}
    assert kept(tmp_path) == [json.dumps(raw).encode()]


@pytest.mark.parametrize("value", [b"", b"[]", b"{", b"null", b'"x"', b"[" * 5000])
def test_after_a_start_a_new_one_takes_the_place_of_what_is_no_object(value: bytes, tmp_path: Path) -> None:
    assert record(tmp_path).document(Versioned(KEY, value, 7)) == (fresh(), False)


def test_whatever_is_wrong_the_mended_record_can_be_read(tmp_path: Path) -> None:
    for number, damage in enumerate(damages(GOOD), 2):
        found, _ = record(tmp_path).document(Versioned(KEY, damage.value, number))
        again = record(tmp_path).document(Versioned(KEY, json.dumps(found).encode(), number))
        assert again == (found, True), damage.name


def test_a_disk_that_takes_nothing_keeps_the_record_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "unreadable").write_text("in the way")
    with pytest.raises(Malformed, match="it is not written over, for it cannot be kept"):
        record(tmp_path).document(Versioned(KEY, b"{", 7))


def test_what_is_kept_is_bounded_and_the_same_bytes_are_kept_once(tmp_path: Path) -> None:
    aside = SetAside(tmp_path)
    for revision in range(1, 2 * MOST_FILES):
        aside.keep(Versioned(KEY, b"%d" % (revision // 2), revision))
    aside.keep(Versioned(KEY, b"last", 10**6))
    names = kept(tmp_path)
    assert len(names) == len(set(names)) <= MOST_FILES
    assert b"last" in names
