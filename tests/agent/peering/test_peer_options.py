"""How a node peers: every field of a peer, one table."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from agent.peering.peers import PeeringInputs, desired_peers, required_passwords
from bgp.peer_config import NextHopMode
from bgp.wire.families import Family
from tests.scenes.bgp.peerings import (
    NO_MESH,
    SECRET,
    TOR,
    A,
    B,
    addresses,
    inputs,
    node,
    peer_config,
    with_tor,
)

HOW: list[tuple[str, PeeringInputs, str, object, str]] = [
    ("as_number of the peer", with_tor(), "asn", 65001, "10.0.0.254"),
    ("the standard port", with_tor(), "port", 179, "10.0.0.254"),
    ("a port with the address", with_tor(peerIP="10.0.0.254:1790"), "port", 1790, "10.0.0.254"),
    ("the node's address is the source", with_tor(), "local_address", ip_address("10.0.0.1"), "10.0.0.254"),
    ("the kernel chooses the source", with_tor(sourceAddress="None"), "local_address", None, "10.0.0.254"),
    ("a router is called", with_tor(), "passive", False, "10.0.0.254"),
    ("keepalive time", with_tor(keepaliveTime="3s"), "keepalive_seconds", 3, "10.0.0.254"),
    ("restart time", with_tor(maxRestartTime="2m"), "restart_seconds", 120, "10.0.0.254"),
    ("restart time of the speaker", with_tor(), "restart_seconds", None, "10.0.0.254"),
    ("TTL security", with_tor(ttlSecurity=1), "ttl_security_hops", 1, "10.0.0.254"),
    ("a route server is believed", with_tor(), "enforce_first_as", False, "10.0.0.254"),
    (
        "a route server is not believed",
        replace(with_tor(), enforce_first_as=True),
        "enforce_first_as",
        True,
        "10.0.0.254",
    ),
    ("nobody is asked to keep paths for long", inputs(A, B), "long_lived_stale_seconds", 0, "10.0.0.2"),
    (
        "all are asked to keep paths for long",
        inputs(A, B, long_lived_stale_seconds=86400),
        "long_lived_stale_seconds",
        86400,
        "10.0.0.2",
    ),
    ("own AS in paths", with_tor(numAllowedLocalASNumbers=2), "allowed_local_as", 2, "10.0.0.254"),
    ("another own AS", with_tor(localASNumber=65009), "local_as", 65009, "10.0.0.254"),
    ("its own AS is no other", with_tor(localASNumber=64512), "local_as", None, "10.0.0.254"),
    ("next hop as it is", with_tor(), "next_hop_mode", NextHopMode.AUTO, "10.0.0.254"),
    ("next hop self", with_tor(nextHopMode="Self"), "next_hop_mode", NextHopMode.SELF, "10.0.0.254"),
    ("next hop kept", with_tor(nextHopMode="Keep"), "next_hop_mode", NextHopMode.KEEP, "10.0.0.254"),
    (
        "keepOriginalNextHop to another AS",
        with_tor(keepOriginalNextHop=True),
        "next_hop_mode",
        NextHopMode.KEEP,
        "10.0.0.254",
    ),
    (
        "keepOriginalNextHop within the AS means nothing",
        with_tor(keepOriginalNextHop=True, asNumber=64512),
        "next_hop_mode",
        NextHopMode.AUTO,
        "10.0.0.254",
    ),
    ("families of a session", with_tor(), "families", frozenset({Family.IPV4}), "10.0.0.254"),
    (
        "families of an IPv6 session",
        with_tor(peerIP="fd00::fe"),
        "families",
        frozenset({Family.IPV6}),
        "fd00::fe",
    ),
    ("the source of an IPv6 session", inputs(A, B), "local_address", ip_address("fd00::1"), "fd00::2"),
    ("the smaller address waits", inputs(A, B), "passive", True, "10.0.0.2"),
    ("the greater one calls", inputs(A, B, me="b"), "passive", False, "10.0.0.1"),
    (
        "addresses compare as text, as Calico's do",
        inputs(node("a", "10.0.0.9"), node("x", "10.0.0.10")),
        "passive",
        False,
        "10.0.0.10",
    ),
    (
        "a node peered with by address is waited for alike",
        inputs(A, B, peers={"b": {"peerIP": "10.0.0.2", "asNumber": 64512}}, configured=NO_MESH),
        "passive",
        True,
        "10.0.0.2",
    ),
    ("a node's own AS", inputs(A, node("x", "10.0.0.7", as_number=65003)), "asn", 65003, "10.0.0.7"),
    (
        "the cluster's AS",
        inputs(A, B, configured={"default": {"asNumber": 65000}}),
        "asn",
        65000,
        "10.0.0.2",
    ),
    (
        "the cluster's port",
        inputs(A, B, configured={"default": {"listenPort": 1790}}),
        "port",
        1790,
        "10.0.0.2",
    ),
    (
        "a node's own port",
        inputs(A, B, configured={"default": {"listenPort": 1790}, "node.b": {"listenPort": 1791}}),
        "port",
        1791,
        "10.0.0.2",
    ),
    (
        "a node's own port, peered with by address",
        inputs(
            A,
            B,
            peers={"b": {"peerIP": "10.0.0.2", "asNumber": 64512}},
            configured={"node.b": {"listenPort": 1791}},
        ),
        "port",
        1791,
        "10.0.0.2",
    ),
    (
        "the restart time of the mesh",
        inputs(A, B, configured={"default": {"nodeMeshMaxRestartTime": "90s"}}),
        "restart_seconds",
        90,
        "10.0.0.2",
    ),
    (
        "the password of the mesh",
        inputs(A, B, configured={"default": {"nodeMeshPassword": SECRET}}, passwords={("bgp", "k"): "pw"}),
        "password",
        "pw",
        "10.0.0.2",
    ),
    (
        "a peer's password",
        inputs(A, peers={"tor": {**TOR, "password": SECRET}}, passwords={("bgp", "k"): "pw"}),
        "password",
        "pw",
        "10.0.0.254",
    ),
    ("hold time", inputs(A, B, hold_seconds=9), "hold_seconds", 9, "10.0.0.2"),
    (
        "the other side of localASNumber sees that number",
        inputs(
            A,
            B,
            peers={
                "x": {"node": "b", "peerIP": "10.0.0.1", "asNumber": 64512, "localASNumber": 65009},
            },
            configured=NO_MESH,
        ),
        "asn",
        65009,
        "10.0.0.2",
    ),
]


@pytest.mark.parametrize(
    ("given", "field", "value", "address"), [case[1:] for case in HOW], ids=[case[0] for case in HOW]
)
def test_how_it_peers(given: PeeringInputs, field: str, value: object, address: str) -> None:
    assert getattr(peer_config(given, address), field) == value


def test_a_session_whose_password_cannot_be_read_is_not_made_and_the_others_are() -> None:
    given = inputs(
        A,
        peers={"safe": {**TOR, "password": SECRET}, "open": {**TOR, "peerIP": "10.0.0.253"}},
        unreadable={("bgp", "k"): "/s/bgp/k: No such file or directory"},
    )
    found = desired_peers(given)
    assert addresses(found) == ["10.0.0.253"]
    assert found.troubles == ("BGPPeer safe: peer 10.0.0.254: /s/bgp/k: No such file or directory",)


def test_a_password_that_the_kernel_cannot_take_is_a_trouble_of_that_peer() -> None:
    found = desired_peers(
        inputs(A, peers={"tor": {**TOR, "password": SECRET}}, passwords={("bgp", "k"): "x" * 81})
    )
    assert found.peers == {}
    assert found.troubles == ("BGPPeer tor: peer 10.0.0.254: password: must be at most 80 octets (TCP MD5)",)


def test_no_text_of_a_situation_or_a_peer_holds_a_password() -> None:
    given = inputs(A, peers={"tor": {**TOR, "password": SECRET}}, passwords={("bgp", "k"): "hunter2"})
    assert required_passwords(given) == {("bgp", "k")}
    assert "hunter2" not in repr(given) + repr(desired_peers(given))
