"""Which router is chosen on an uplink, of all that is seen there, and why there is none."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.configuration.config import UplinkSettings
from agent.uplinks.discovery import (
    MOST_LINKS,
    MOST_ROUTERS,
    PATIENCE_SECONDS,
    SILENT_SECONDS,
    Discovery,
    UplinkLink,
)
from agent.uplinks.router_discovery import Heard, Message

OWN = IPv6Address("fe80::1%eth1")
SETTINGS = UplinkSettings(interface="eth*")
RA = Message.ROUTER_ADVERTISEMENT


def link(name: str = "eth1", number: int = 3, **more: Any) -> UplinkLink:
    own = IPv6Address(f"fe80::1%{name}")
    return UplinkLink(name, number, **{"up": True, "carrier": True, "addresses": (own,)} | more)


def router(last: int, zone: str = "eth1") -> IPv6Address:
    return IPv6Address(f"fe80::{last:x}%{zone}")


def said(last: int, kind: Message = RA, lifetime: int = 1800, number: int = 3) -> Heard:
    return Heard(number, IPv6Address(f"fe80::{last:x}"), kind, lifetime)


class World:
    """One node's uplinks under virtual time."""

    def __init__(self, *settings: UplinkSettings, **more: Any) -> None:
        self.discovery = Discovery(settings or (SETTINGS,))
        self.now = 0.0
        self.established: set[Any] = set()
        self.look(link(**more))

    def look(self, *links: UplinkLink) -> None:
        self.discovery.take_links(links, self.now)
        self.choose()

    def hear(self, *many: Heard) -> None:
        for one in many:
            self.discovery.hear(one, self.now)
        self.choose()

    def choose(self) -> None:
        self.discovery.choose(self.established, self.now)

    def later(self, seconds: float) -> None:
        self.now += seconds
        self.choose()

    def chosen(self) -> list[str]:
        return [str(one) for one in self.discovery.chosen()]

    def why(self, session: str = "", error: str = "") -> str:
        (uplink,) = self.discovery.uplinks.values()
        return self.discovery.why_not(uplink, session, error)


MAC, OTHER_MAC = "02:00:00:00:00:09", "02:00:00:00:00:0a"
FOUR = IPv4Address("10.0.0.9")
SIGNS: dict[str, tuple[UplinkLink, tuple[Heard, ...], str]] = {
    "router advertisement": (link(), (said(9),), "fe80::9%eth1"),
    "router advertisement without a lifetime": (link(), (said(9, lifetime=0),), "fe80::9%eth1"),
    "neighbour table": (
        link(neighbours=((IPv6Address("fe80::9"), MAC, True),)),
        (),
        "fe80::9%eth1",
    ),
    "IPv6 default route": (link(gateways=(IPv6Address("fe80::9"),)), (), "fe80::9%eth1"),
    "answers to all routers (ff02::2)": (link(), (said(9, Message.ECHO_REPLY),), "fe80::9%eth1"),
    "IPv4 default route": (
        link(gateways=(FOUR,), neighbours=((FOUR, MAC, False), (IPv6Address("fe80::9"), MAC, False))),
        (),
        "fe80::9%eth1",
    ),
}


@pytest.mark.parametrize("sign", SIGNS)
def test_each_sign_of_a_router_finds_it(sign: str) -> None:
    seen, spoken, address = SIGNS[sign]
    world = World()
    world.look(seen)
    world.hear(*spoken)
    assert world.chosen() == [address]
    assert world.discovery.uplinks["eth1"].routers[ip_address(address)].best.value == sign


def test_the_gateway_of_ipv4_is_called_itself_only_where_nobody_has_a_link_local_address() -> None:
    world = World()
    world.look(link(gateways=(FOUR,), neighbours=((FOUR, OTHER_MAC, False),)))
    assert world.chosen() == ["10.0.0.9"]
    other = World()
    other.hear(said(9))
    other.look(link(gateways=(FOUR,)))
    assert other.chosen() == ["fe80::9%eth1"]


def test_a_neighbour_that_is_no_router_and_our_own_words_are_no_sign() -> None:
    world = World()
    world.look(link(neighbours=((IPv6Address("fe80::7"), MAC, False), (IPv6Address("fd00::9"), MAC, True))))
    world.hear(said(1), said(9, Message.ROUTER_SOLICITATION), said(9, number=44))
    assert world.chosen() == []
    assert "no router" in world.why()


def test_a_router_with_a_lifetime_goes_before_one_without_and_before_who_was_only_seen() -> None:
    world = World()
    world.discovery.hear(said(5, Message.ECHO_REPLY), 0.0)
    world.discovery.hear(said(6, lifetime=0), 0.0)
    world.discovery.hear(said(7), 0.0)
    world.choose()
    assert world.chosen() == ["fe80::7%eth1"]


def test_who_was_found_first_stays_while_its_session_lives_whoever_else_advertises_itself() -> None:
    world = World()
    world.hear(said(9, lifetime=0))
    world.established = {router(9)}
    world.hear(said(0xBAD, lifetime=9000))
    world.later(10 * SILENT_SECONDS)
    assert world.chosen() == ["fe80::9%eth1"]
    world.hear(said(0xBAD, lifetime=9000))
    (uplink,) = world.discovery.uplinks.values()
    assert world.discovery.others(uplink) == [router(0xBAD)]


def test_one_without_a_session_makes_room_for_the_next_and_gets_its_turn_again() -> None:
    world = World()
    world.hear(said(9), said(10))
    assert world.chosen() == ["fe80::9%eth1"]
    world.later(PATIENCE_SECONDS - 1)
    assert world.chosen() == ["fe80::9%eth1"]
    world.later(1)
    assert world.chosen() == ["fe80::a%eth1"]
    world.later(PATIENCE_SECONDS)
    assert world.chosen() == ["fe80::9%eth1"]


def test_alone_on_its_link_a_router_is_called_until_it_is_silent() -> None:
    world = World()
    world.hear(said(9, lifetime=0))
    world.later(SILENT_SECONDS - 1)
    assert world.chosen() == ["fe80::9%eth1"]
    world.later(1)
    assert world.chosen() == []


def test_a_flood_of_routers_takes_no_memory_and_no_place() -> None:
    world = World()
    world.hear(*(said(number) for number in range(2, 1000)))
    (uplink,) = world.discovery.uplinks.values()
    assert len(uplink.routers) == MOST_ROUTERS
    assert uplink.overflow
    assert world.chosen() == ["fe80::2%eth1"]


def test_the_same_router_address_on_two_links_is_two_routers() -> None:
    world = World()
    world.look(link(), link("eth2", 4))
    world.hear(said(9), said(9, number=4))
    assert world.chosen() == ["fe80::9%eth1", "fe80::9%eth2"]


NEVER = ["cali123", "tunl0", "vxlan.calico", "vxlan-v6.calico", "lo", "veth1", "docker0", "br-1", "tap0"]


@pytest.mark.parametrize("name", NEVER)
def test_an_interface_of_pods_or_a_tunnel_is_no_uplink_whatever_the_pattern(name: str) -> None:
    world = World(UplinkSettings(interface="*"), name=name)
    world.hear(said(9))
    assert (world.discovery.uplinks, world.chosen()) == ({}, [])


@pytest.mark.parametrize("kind", ["vxlan", "ipip", "wireguard", "tun", "dummy"])
def test_a_device_without_a_cable_is_no_uplink(kind: str) -> None:
    assert World(kind=kind).discovery.uplinks == {}


def test_an_interface_that_goes_takes_its_router_and_one_of_its_name_is_another() -> None:
    world = World()
    world.hear(said(9))
    world.look(link(number=8))
    assert world.chosen() == []
    world.hear(said(9, number=8))
    assert world.chosen() == ["fe80::9%eth1"]
    world.look()
    assert world.chosen() == []


def test_more_uplinks_than_a_node_has_are_told() -> None:
    world = World()
    world.look(*(link(f"eth{number:03}", number) for number in range(1, MOST_LINKS + 4)))
    assert len(world.discovery.uplinks) == MOST_LINKS
    assert world.discovery.beyond == ("eth017", "eth018", "eth019")


def test_a_link_that_is_down_keeps_its_router_for_its_return() -> None:
    world = World()
    world.hear(said(9))
    world.look(link(carrier=False))
    assert world.chosen() == ["fe80::9%eth1"]
    assert world.why() == "no link: there is no carrier"


WHY_NOT: list[tuple[dict[str, Any], str]] = [
    ({"up": False}, "the interface is down"),
    ({"carrier": False}, "no link: there is no carrier"),
    ({"addresses": ()}, "no link-local address"),
    ({}, "no router"),
]


@pytest.mark.parametrize(("state", "why"), WHY_NOT)
def test_it_is_told_why_there_is_no_session(state: dict[str, Any], why: str) -> None:
    assert why in World(**state).why()


def test_of_a_router_that_was_found_the_session_says_why_not() -> None:
    world = World()
    world.hear(said(9))
    assert world.why("Active", "Connection refused") == "Connection refused"
    assert world.why("Connect") == "the session is Connect"
    assert "not configured yet" in world.why()


def test_a_pattern_that_no_interface_has_is_missing() -> None:
    world = World(UplinkSettings(interface="ens*"))
    assert [one.interface for one in world.discovery.missing()] == ["ens*"]


events = st.lists(
    st.tuples(
        st.integers(2, 20), st.sampled_from([RA, Message.ECHO_REPLY]), st.integers(0, 9000), st.floats(0, 40)
    )
)


@given(events, st.booleans())
def test_whatever_is_said_there_is_one_router_or_none_and_a_living_session_keeps_its_own(
    said_: list[tuple[int, Message, int, float]], lives: bool
) -> None:
    world = World()
    world.hear(said(2))
    if lives:
        world.established = {router(2)}
    for last, kind, lifetime, seconds in said_:
        world.later(seconds)
        world.hear(said(last, kind, lifetime))
        assert len(world.chosen()) <= 1
        assert not lives or world.chosen() == ["fe80::2%eth1"]
        assert len(world.discovery.uplinks["eth1"].routers) <= MOST_ROUTERS
