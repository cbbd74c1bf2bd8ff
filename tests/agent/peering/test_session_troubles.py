"""Limits and our own errors are troubles, with the peer, the loss and the setting that cures them."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

from agent.peering.peers import desired_peers
from agent.peering.session_troubles import refused_keys, session_troubles
from agent.trouble import TroubleKind
from bgp.peer_status import PeerStatus
from bgp.session.fsm import State
from tests.scenes.bgp.peerings import A, B, C, inputs, one, with_tor

PEER = IPv4Address("10.0.0.2")
STATUS = PeerStatus(PEER, 64512, "b", State.ESTABLISHED, None, 0, 0, "", False)


def texts(status: PeerStatus, failure: str = "", *, mesh: bool = True) -> list[str]:
    found = list(session_troubles([status], failure, {PEER} if mesh else set()))
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
