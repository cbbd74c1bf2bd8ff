"""Which BFD sessions follow from peers and links, and which of them are troubles."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from agent.configuration.config import BfdSettings
from agent.datastore.resources.bgp_types import BFDConfigurationSpec, BFDInterface
from agent.netlink.objects import Address, Link
from agent.peering.bfd.bfd_sessions import (
    COMING_UP_SECONDS,
    LEAST_TTL,
    BfdSessions,
    bfd_sessions,
    bfd_troubles,
)
from agent.peering.bfd.bfd_timers import interface_timers
from agent.peering.peers import DesiredPeer, PeerKind, desired_peers
from bgp.bfd.door import MOST_SESSIONS, DesiredSession, SessionKey, SessionReport
from bgp.peer_config import PeerConfig
from tests.scenes.bgp.peerings import NO_MESH, TOR, A, B, inputs, one, with_tor

ETH0 = Link(
    2, "eth0", None, 1500, True, addresses=((ip_address("10.0.0.1"), 24), (ip_address("fd00::1"), 64))
)
LINKS = {"eth0": ETH0}
NEAR, FAR = ip_address("10.0.0.254"), ip_address("172.16.0.1")
KEY = SessionKey("10.0.0.254", "10.0.0.1", "eth0")


def peer(address: str, kind: PeerKind = PeerKind.GLOBAL, *, bfd: bool = True, **more: Any) -> DesiredPeer:
    config = PeerConfig(ip_address(address), 65001, description="tor1", **more)
    return DesiredPeer(config, kind, "tor1", bfd=bfd)


def wanted(*peers: DesiredPeer, settings: BfdSettings | None = None) -> BfdSessions:
    of: dict[Address, DesiredPeer] = {found.config.address: found for found in peers}
    return bfd_sessions(of, LINKS, settings or BfdSettings())


def test_a_peer_on_a_link_has_a_session_over_that_link_with_the_timers_that_are_set() -> None:
    near = peer("10.0.0.254", local_address=ip_address("10.0.0.1"))
    found = wanted(near, settings=BfdSettings(min_tx=50, min_rx=60, multiplier=4))
    assert found.sessions == {NEAR: DesiredSession(KEY, 50, 60, 4)}


def test_a_bfdconfiguration_goes_before_the_settings_and_what_it_asks_in_vain_is_a_trouble() -> None:
    slow = BFDInterface(match_pattern="eth*", minimum_send_interval="2m", idle_send_interval="20s")
    asked = interface_timers({"b": BFDConfigurationSpec(interfaces=[slow])}, None)
    near = peer("10.0.0.254", local_address=ip_address("10.0.0.1"))
    found = bfd_sessions({NEAR: near}, LINKS, BfdSettings(), asked)
    assert found.sessions == {NEAR: DesiredSession(KEY, 60_000, 10, 5, 20_000)}
    coming_up = SessionReport(KEY, seconds=COMING_UP_SECONDS + 18)
    (trouble,) = bfd_troubles(found, {KEY: coming_up}, {})
    assert (trouble.about, trouble.evidence) == (
        "BFDConfiguration b, eth*",
        "minimumSendInterval is 120000 ms, and 60000 ms is used: it is 10 to 60000 here",
    )


def test_a_peer_without_bfd_has_none_and_one_behind_a_router_has_none_though_it_asks() -> None:
    found = wanted(peer("10.0.0.254", bfd=False), peer("172.16.0.1"))
    assert (found.sessions, list(found.left_out)) == ({}, [FAR])
    assert list(bfd_troubles(found, {}, {})) == [], "it was asked for where there can be one"


def test_a_node_of_the_mesh_behind_a_router_has_one_over_several_hops() -> None:
    far = peer("172.16.0.1", PeerKind.MESH, local_address=ip_address("10.0.0.1"))
    key = SessionKey("172.16.0.1", "10.0.0.1", multihop=True)
    assert wanted(far).sessions == {FAR: DesiredSession(key, minimum_ttl=LEAST_TTL)}


def test_a_link_local_peer_has_one_over_the_link_of_its_zone() -> None:
    found = wanted(peer("fe80::1%eth0"), peer("fe80::1%eth7"))
    assert [session.key for session in found.sessions.values()] == [SessionKey("fe80::1", "", "eth0")]


def test_more_sessions_than_the_process_takes_are_a_trouble_each() -> None:
    peers = [peer(f"10.0.0.{n % 250}" if n < 250 else f"fd00::{n:x}") for n in range(1, MOST_SESSIONS + 3)]
    found = wanted(*{one.config.address: one for one in peers}.values())
    assert len(found.sessions) == MOST_SESSIONS
    assert len(list(bfd_troubles(found, {}, {}))) == len(found.left_out) > 0


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (SessionReport(KEY, seconds=COMING_UP_SECONDS), "nothing is heard"),
        (SessionReport(KEY, remote_state="AdminDown", seconds=60), "AdminDown"),
        (
            SessionReport(
                KEY, state="Init", remote_discriminator=4, remote_diagnostic="path down", seconds=60
            ),
            "Init here, Down there (path down)",
        ),
        (SessionReport(KEY, error="no socket"), "no socket"),
    ],
)
def test_a_session_that_is_wanted_and_not_up_is_a_trouble(report: SessionReport, words: str) -> None:
    found = wanted(peer("10.0.0.254", local_address=ip_address("10.0.0.1")))
    (trouble,) = bfd_troubles(found, {KEY: report}, {NEAR: "tor1"})
    assert words in trouble.evidence
    assert trouble.about == "BFD with tor1 (10.0.0.254)"


@pytest.mark.parametrize(
    "report", [SessionReport(KEY, state="Up", seconds=60), SessionReport(KEY, seconds=1)]
)
def test_a_session_that_is_up_or_is_coming_up_is_none(report: SessionReport) -> None:
    found = wanted(peer("10.0.0.254", local_address=ip_address("10.0.0.1")))
    assert list(bfd_troubles(found, {KEY: report}, {})) == []


def test_bfd_is_on_by_the_field_of_a_bgppeer_by_name_or_for_the_mesh() -> None:
    by_field = with_tor(failureDetectionMode="BFDIfDirectlyConnected")
    assert one(desired_peers(by_field)).bfd
    assert not one(desired_peers(with_tor(failureDetectionMode="None"))).bfd
    named = inputs(A, B, peers={"tor": TOR}, configured=NO_MESH, bfd_peers=frozenset({"tor", "gone"}))
    found = desired_peers(named)
    assert one(found).bfd
    assert found.troubles == ("bfd.peers: there is no BGPPeer gone",)
    assert one(desired_peers(inputs(A, B, bfd_mesh=True)), "10.0.0.2").bfd
    assert not one(desired_peers(inputs(A, B)), "10.0.0.2").bfd
