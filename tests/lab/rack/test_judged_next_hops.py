"""Equal paths and next hops that the host's routes resolve: our routes in the kernel are BIRD's and FRR's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.scenes.rack.judge import JudgedLab, judging
from tests.scenes.rack.judged_scenes import Announced, Cable, Peer, Scene, Step
from tests.scenes.rack.judges import Options

pytestmark = pytest.mark.lab

CABLES = tuple(
    Cable(
        f"eth{number}",
        (f"10.81.{number}.1/24", f"fd81:{number}::1/64"),
        (f"10.81.{number}.2/24", f"fd81:{number}::2/64"),
    )
    for number in (1, 2, 3)
)
PREFIX, PREFIX6 = "10.77.0.0/24", "fd77::/64"


def pair(number: int, how: str = "", how6: str = "", asn: int = 0) -> tuple[Peer, Peer]:
    """A peer of each version of IP behind a cable, with the prefix of its version; `asn` 0: one of its own."""
    asn = asn or 64600 + number
    return (
        Peer(f"tor{number}", f"10.81.{number}.2", f"10.81.{number}.1", (Announced(PREFIX, how),), asn),
        Peer(
            f"tor6{number}", f"fd81:{number}::2", f"fd81:{number}::1", (Announced(PREFIX6, how6 or how),), asn
        ),
    )


def peers(*pairs: tuple[Peer, Peer]) -> tuple[Peer, ...]:
    return tuple(one for pair in pairs for one in pair)


def both(verb: str, *numbers: int) -> tuple[str, ...]:
    return tuple(f"{verb} tor{version}{number}" for number in numbers for version in ("", "6"))


EQUAL_PATHS = {
    "two switches of two AS": Scene(
        CABLES,
        peers(pair(1), pair(2)),
        (Step(2), Step(2, birdc=both("disable", 1)), Step(2, birdc=both("enable", 1))),
    ),
    "three switches, a cable is pulled and put back": Scene(
        CABLES,
        peers(pair(1), pair(2), pair(3)),
        (
            Step(2),
            Step(2, far=("link set eth2 down",)),
            Step(2, far=("link set eth2 up", "address add fd81:2::2/64 dev eth2 nodad")),
        ),
        judges=frozenset({"bird"}),  # FRR 8.4 does not put the next hop back into its route
    ),
    "a longer AS path is none of them": Scene(
        CABLES, peers(pair(1), pair(2), pair(3, "bgp_path.prepend(65000);")), (Step(2),)
    ),
    "a larger LOCAL_PREF is alone": Scene(
        CABLES,
        peers(pair(1, asn=64512), pair(2, "bgp_local_pref = 200;", asn=64512), pair(3, asn=64512)),
        (Step(2),),
    ),
    "a smaller MED of one AS is alone": Scene(
        CABLES, peers(pair(1, "bgp_med = 9;", asn=64601), pair(2, "bgp_med = 5;", asn=64601)), (Step(2),)
    ),
    "a better ORIGIN is alone": Scene(
        CABLES,
        peers(pair(1, "bgp_origin = ORIGIN_INCOMPLETE;"), pair(2, "bgp_origin = ORIGIN_IGP;")),
        (Step(2),),
    ),
    "two paths with one next hop are one": Scene(
        CABLES,
        peers(
            pair(1, "bgp_next_hop = 10.81.3.7;", "bgp_next_hop = fd81:3::7;", asn=64512),
            pair(2, "bgp_next_hop = 10.81.3.7;", "bgp_next_hop = fd81:3::7;", asn=64512),
        ),
        (Step(2),),
    ),
}
FAR = ("bgp_next_hop = 10.99.0.9;", "bgp_next_hop = fd99::9;")


NEXT_HOPS = {
    "the host's route, and another one in its place": Scene(
        CABLES,
        peers(pair(1, *FAR, asn=64512)),
        (
            Step(2),
            Step(
                2,
                node=(
                    "route replace 10.99.0.0/24 via 10.81.3.3",
                    "-6 route replace fd99::/64 via fd81:3::3",
                ),
            ),
        ),
        node=("route add 10.99.0.0/24 via 10.81.2.3", "-6 route add fd99::/64 via fd81:2::3"),
    ),
    "a longer route comes and goes": Scene(
        CABLES,
        peers(pair(1, *FAR, asn=64512)),
        (
            Step(2),
            Step(2, node=("route add 10.99.0.9/32 via 10.81.3.3", "-6 route add fd99::9/128 via fd81:3::3")),
            Step(2, node=("route del 10.99.0.9/32", "-6 route del fd99::9/128")),
        ),
        node=("route add 10.99.0.0/24 via 10.81.2.3", "-6 route add fd99::/64 via fd81:2::3"),
    ),
    "a route of several gateways": Scene(
        CABLES,
        peers(pair(1, *FAR, asn=64512)),
        (Step(2),),
        node=(
            "route add 10.99.0.0/24 nexthop via 10.81.2.3 nexthop via 10.81.3.3",
            "-6 route add fd99::/64 nexthop via fd81:2::3 nexthop via fd81:3::3",
        ),
    ),
    "the default route": Scene(CABLES, peers(pair(1, *FAR, asn=64512)), (Step(2),)),
    "one of two equal paths resolves": Scene(
        CABLES,
        peers(
            pair(1, *FAR, asn=64512), pair(2, "bgp_next_hop = 10.98.0.9;", "bgp_next_hop = fd98::9;", 64512)
        ),
        (
            Step(2),
            Step(2, node=("route add 10.98.0.9/32 via 10.81.3.3", "-6 route add fd98::9/128 via fd81:3::3")),
        ),
        node=("route add 10.99.0.0/24 via 10.81.2.3", "-6 route add fd99::/64 via fd81:2::3"),
        has_default=False,
    ),
}


def leads_there(
    number: int, how: str = "", where: str = "10.99.0.9/32", where6: str = "fd99::9/128"
) -> tuple[Peer, Peer]:
    """A switch that announces where the next hops of `FAR` are, and is itself on a link."""
    asn = 64600 + number
    own = Announced(where, how), Announced(where6, how)
    near, far = f"10.81.{number}", f"fd81:{number}::"
    return (
        Peer(f"tor{number}", f"{near}.2", f"{near}.1", own[:1], asn, bird="direct;"),
        Peer(f"tor6{number}", f"{far}2", f"{far}1", own[1:], asn, bird="direct;"),
    )


WORSE = "bgp_path.prepend(65000);"
LEARNED_WAYS = {
    "a switch says where the next hop is, and another one, and the first again": Scene(
        CABLES,
        peers(pair(1, *FAR, asn=64512), leads_there(2), leads_there(3, WORSE)),
        (Step(4), Step(4, birdc=both("disable", 2)), Step(4, birdc=both("enable", 2))),
        has_default=False,
    ),
    "it is longer than the host's route, and goes": Scene(
        CABLES,
        peers(pair(1, *FAR, asn=64512), leads_there(2)),
        (Step(4), Step(2, birdc=both("disable", 2))),
        node=("route add 10.99.0.0/24 via 10.81.3.3", "-6 route add fd99::/64 via fd81:3::3"),
    ),
    "it is shorter than the host's route": Scene(
        CABLES,
        peers(pair(1, *FAR, asn=64512), leads_there(2, "", "10.99.0.0/16", "fd99::/32")),
        (
            Step(4),
            Step(4, node=("route add 10.99.0.0/24 via 10.81.3.3", "-6 route add fd99::/64 via fd81:3::3")),
        ),
    ),
    "two switches lead there alike": Scene(
        CABLES,
        peers(pair(1, *FAR, asn=64512), leads_there(2), leads_there(3)),
        (Step(4), Step(4, birdc=both("disable", 3))),
        has_default=False,
        judges=frozenset({"frr"}),  # BIRD takes the best of the two
    ),
}


@pytest.fixture(scope="module")
def judged() -> Iterator[JudgedLab]:
    with judging("ecmp", options=Options(maximum_paths=8)) as found:
        yield found


@pytest.mark.parametrize("scene", EQUAL_PATHS.values(), ids=EQUAL_PATHS)
def test_equal_paths_are_one_route_as_bird_and_frr_have_it(judged: JudgedLab, scene: Scene) -> None:
    judged.compare(scene)


@pytest.mark.parametrize("scene", NEXT_HOPS.values(), ids=NEXT_HOPS)
def test_a_next_hop_is_reached_as_the_hosts_routes_have_it_as_bird_and_frr_do(
    judged: JudgedLab, scene: Scene
) -> None:
    judged.compare(scene)


@pytest.mark.parametrize("scene", LEARNED_WAYS.values(), ids=LEARNED_WAYS)
def test_a_next_hop_is_reached_by_what_a_switch_on_a_link_announces_as_bird_and_frr_do(
    judged: JudgedLab, scene: Scene
) -> None:
    judged.compare(scene)
