"""Limits and our own errors are troubles, with the peer, the loss and the setting that cures them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address

from agent.peering.peers import desired_peers
from agent.peering.session_troubles import refused_keys, session_troubles
from agent.trouble import TroubleKind
from bgp.peer_status import PeerStatus
from bgp.session.fsm import State
from tests.scenes.bgp.peerings import A, B, C, inputs, one, with_tor

PEER = IPv4Address("10.0.0.2")
NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)
STATUS = PeerStatus(PEER, 64512, "b", State.ESTABLISHED, None, 0, 0, "", False)


def texts(status: PeerStatus, failure: str = "", *, mesh: bool = True) -> list[str]:
    found = list(session_troubles([status], failure, {PEER} if mesh else set(), NOW))
    assert {trouble.kind for trouble in found} <= {TroubleKind.PEERING}
    return [str(trouble) for trouble in found]


def test_a_session_without_fault_has_no_trouble() -> None:
    assert texts(STATUS) == []


def test_a_limit_that_is_near_is_said_with_its_setting() -> None:
    near = replace(STATUS, near_limit="announces 7501 IPv4 prefixes of at most 10000")
    (said,) = texts(near)
    assert said.startswith(
        "BGP peer b (10.0.0.2): announces 7501 IPv4 prefixes of at most 10000; behind that"
    )
    assert "bgp.mesh_maximum_prefixes" in said
    assert "raise bgp.maximum_prefixes" in texts(near, mesh=False)[0]


def test_an_exceeded_limit_is_said_instead_until_the_peer_is_back() -> None:
    (said,) = texts(replace(STATUS, exceeded="more than 10000 prefixes", near_limit="no longer"))
    assert "its limit was exceeded: more than 10000 prefixes; its routes are gone" in said


def test_refused_passwords_are_one_trouble_that_names_the_memory_they_need() -> None:
    assert list(refused_keys({}, 4096)) == []
    peers = {IPv4Address(0x0A000001 + number): "Cannot allocate memory" for number in range(12)}
    (said,) = refused_keys(peers, 4096)
    assert said.kind is TroubleKind.PEERING
    assert said.evidence == (
        "the kernel took no MD5 key for 10.0.0.1, 10.0.0.2, 10.0.0.3, 10.0.0.4, 10.0.0.5 and 7 more: "
        "Cannot allocate memory"
    )
    assert said.cure.endswith("sysctl -w net.core.optmem_max=4096")
    (said,) = refused_keys({PEER: "Protocol not available"}, 4096)
    assert (said.evidence.endswith(": Protocol not available"), "optmem" in said.cure) == (True, False)


def test_an_internal_error_is_said_with_its_peer_or_for_all() -> None:
    (said,) = texts(replace(STATUS, failure="KeyError: 1"))
    assert said.startswith("BGP peer b (10.0.0.2): an internal error reset its session, KeyError: 1")
    (said,) = texts(STATUS, "ValueError: no")
    assert said.startswith("BGP: an internal error, ValueError: no")


def test_mesh_peers_and_configured_ones_have_each_their_limit_and_half_of_the_memory() -> None:
    given = replace(inputs(A, B, C), mesh_maximum_prefixes=7, maximum_prefixes=8, maximum_octets=100)
    mesh = one(desired_peers(given), "10.0.0.2").config
    assert (mesh.maximum_prefixes, mesh.maximum_octets) == (7, 50)
    tor = one(desired_peers(replace(with_tor(), maximum_prefixes=8))).config
    assert tor.maximum_prefixes == 8


def test_there_are_limits_without_any_setting() -> None:
    mesh, tor = one(desired_peers(inputs(A, B)), "10.0.0.2").config, one(desired_peers(with_tor())).config
    assert (mesh.maximum_prefixes, tor.maximum_prefixes) == (10_000, 250_000)
    assert mesh.maximum_octets == tor.maximum_octets == 256 << 20


def test_a_peer_that_is_away_longer_than_a_restart_takes_is_one_and_says_why_and_since_when() -> None:
    away = replace(
        STATUS, state=State.ACTIVE, last_error="No route to host", since=NOW - timedelta(seconds=59)
    )
    assert texts(away) == []
    away = replace(away, since=NOW - timedelta(seconds=60))
    (said,) = texts(away, mesh=False)
    assert said.startswith(
        "BGP peer b (10.0.0.2): has no session since 2026-01-02 11:59:00 UTC: No route to host; it learns and"
    )
    (said,) = texts(replace(away, restarting=True), mesh=False)
    assert "its paths are kept as stale ones" in said


def test_all_nodes_of_the_mesh_that_are_away_are_one_trouble() -> None:
    since = NOW - timedelta(hours=1)
    away = [
        replace(
            STATUS, address=PEER + number, state=State.ACTIVE, last_error="no answer within 10 s", since=since
        )
        for number in range(7)
    ]
    (said,) = session_troubles(away, "", {one.address for one in away}, NOW)
    assert said.about == "BGP mesh"
    assert said.evidence.startswith(
        "b (10.0.0.2) has no session since 2026-01-02 11:00:00 UTC: no answer within 10 s, "
    )
    assert said.evidence.endswith(" and 2 more")


def test_one_that_is_disabled_or_over_its_limit_is_not_said_twice() -> None:
    away = replace(STATUS, state=State.IDLE, since=NOW - timedelta(hours=1))
    assert len(texts(replace(away, disabled=True, last_error="it is disabled here"))) == 1
    assert len(texts(replace(away, exceeded="more than 10000 prefixes"))) == 1
