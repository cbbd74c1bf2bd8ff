"""BIRD in the node's place and we have the same routes in the kernel: what every node has had for long."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.scenes.rack.judge import JudgedLab, judging
from tests.scenes.rack.judged_scenes import Announced, Cable, Peer, Scene, Step

pytestmark = pytest.mark.lab

TWO_CABLES = (
    Cable("eth1", ("10.81.1.1/24", "fd81:1::1/64"), ("10.81.1.2/24", "fd81:1::2/64")),
    Cable("eth2", ("10.81.2.1/24", "fd81:2::1/64"), ("10.81.2.2/24", "fd81:2::2/64")),
)


@pytest.fixture(scope="module")
def judged() -> Iterator[JudgedLab]:
    with judging("judge") as found:
        yield found


def test_a_tor_is_the_gateway_of_what_it_announces_and_its_end_takes_it(judged: JudgedLab) -> None:
    tor = Peer("tor1", "10.81.1.2", "10.81.1.1", (Announced("10.77.0.0/24"), Announced("10.77.1.0/24")))
    tor6 = Peer("tor61", "fd81:1::2", "fd81:1::1", (Announced("fd77::/64"),))
    steps = (Step(3), Step(1, birdc=("disable tor1",)), Step(3, birdc=("enable tor1",)))
    judged.compare(Scene(TWO_CABLES[:1], (tor, tor6), steps))


def test_of_two_tors_the_shorter_as_path_and_the_larger_local_preference_win(judged: JudgedLab) -> None:
    longer = Announced("10.77.0.0/24", "bgp_path.prepend(65000);")
    first = Peer("tor1", "10.81.1.2", "10.81.1.1", (longer, Announced("10.77.1.0/24")))
    second = Peer("tor2", "10.81.2.2", "10.81.2.1", (Announced("10.77.0.0/24"),), asn=64602)
    near = Announced("fd77::/64", "bgp_local_pref = 200;")
    first6 = Peer("tor61", "fd81:1::2", "fd81:1::1", (Announced("fd77::/64"),), asn=64512)
    second6 = Peer("tor62", "fd81:2::2", "fd81:2::1", (near,), asn=64512)
    steps = (
        Step(3),
        Step(3, birdc=("disable tor2", "disable tor62")),
        Step(3, birdc=("enable tor2", "enable tor62")),
    )
    judged.compare(Scene(TWO_CABLES, (first, second, first6, second6), steps))


def test_a_next_hop_on_another_link_than_its_peers_session_is_gone_to_by_its_own_link(
    judged: JudgedLab,
) -> None:
    there = Announced("10.77.0.0/24", "bgp_next_hop = 10.81.2.7;")
    there6 = Announced("fd77::/64", "bgp_next_hop = fd81:2::7;")
    first = Peer("tor1", "10.81.1.2", "10.81.1.1", (there,), asn=64512)
    first6 = Peer("tor61", "fd81:1::2", "fd81:1::1", (there6,), asn=64512)
    judged.compare(Scene(TWO_CABLES, (first, first6), (Step(2),)))
