"""Sessions that end with their link: which ones, and that they are called when it is back."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from agent.netlink.objects import Link
from agent.peering.peer_links import fallen_peers, link_of, links_of_peers
from agent.peering.peers import DesiredPeer, PeerKind
from bgp.peer_config import PeerConfig
from tests.scenes.bgp.controllers import PORT, SUBNET, bgp_nodes, document

TOR1, TOR2, NODE = (ip_address(text) for text in ("10.1.1.0", "10.1.2.0", "10.255.0.12"))
ROUTER = ip_address("fe80::1%eth3")
TOR6 = ip_address("fd01::1")


def links(**states: str) -> dict[str, Link]:
    """`eth1="up"`, `"down"` or `"dark"`: without a carrier; up those that are not named."""
    addresses = {
        "eth1": (("10.1.1.1", 31), ("fd01::2", 64)),
        "eth2": (("10.1.2.1", 31),),
        "eth3": (),
        "lo": (("10.255.0.11", 32),),
    }
    return {
        name: Link(
            number,
            name,
            "veth",
            1500,
            up=(state := states.get(name, "up")) != "down",
            addresses=tuple((ip_address(text), length) for text, length in found),
            carrier=state == "up",
        )
        for number, (name, found) in enumerate(addresses.items(), 1)
    }


PEERS = {
    address: DesiredPeer(PeerConfig(address, asn=65001), kind)
    for address, kind in (
        (TOR1, PeerKind.NODE),
        (TOR2, PeerKind.NODE),
        (TOR6, PeerKind.NODE),
        (NODE, PeerKind.MESH),
        (ROUTER, PeerKind.UPLINK),
    )
}


def test_a_peer_is_on_the_link_of_its_subnet_or_zone_and_stays_on_it_while_it_has_no_address() -> None:
    external = {TOR1, TOR2, TOR6, NODE}
    expected = {TOR1: "eth1", TOR2: "eth2", TOR6: "eth1", ROUTER: "eth3"}
    assert (on := links_of_peers(PEERS, links(), external, {})) == expected
    assert links_of_peers(PEERS, {}, external, on) == expected
    assert links_of_peers(PEERS, links(), {TOR2}, {}) == {TOR2: "eth2", ROUTER: "eth3"}
    assert link_of(links(), NODE) is None


@pytest.mark.parametrize(
    ("states", "established", "fallen"),
    [
        pytest.param({}, {TOR1, TOR2}, set(), id="all links live"),
        pytest.param({"eth1": "dark"}, {TOR1, TOR2}, {TOR1}, id="a cable is out"),
        pytest.param({"eth1": "down"}, {TOR1, TOR2, TOR6}, {TOR1, TOR6}, id="an interface is down"),
        pytest.param({"eth3": "dark"}, {TOR1, ROUTER}, {ROUTER}, id="an uplink"),
        pytest.param({"eth1": "dark"}, {TOR1, NODE}, set(), id="no other link lives"),
        pytest.param({"eth1": "dark", "eth2": "dark"}, {TOR1, TOR2}, set(), id="all are down"),
        pytest.param({"eth1": "dark"}, {TOR2}, set(), id="it has no session"),
    ],
)
def test_a_session_ends_with_its_link_while_another_one_lives(
    states: dict[str, str], established: set[object], fallen: set[object]
) -> None:
    on = {TOR1: "eth1", TOR2: "eth2", TOR6: "eth1", ROUTER: "eth3"}
    found = fallen_peers(on, links(**states), established)  # type: ignore[arg-type]
    assert found.keys() == fallen


def cables(*states: bool) -> dict[str, Link]:
    """A cable to node 2, and one to node 4, with a carrier or without."""
    return {
        f"eth{number}": Link(
            number,
            f"eth{number}",
            "veth",
            1500,
            up=True,
            addresses=((ip_address(f"{SUBNET}.{2 * number}"), 31),),
            carrier=carrier,
        )
        for number, carrier in enumerate(states, 1)
    }


async def test_a_session_whose_link_fails_takes_its_paths_at_once_and_is_called_when_it_is_back(
    tmp_path: Path,
) -> None:
    async with bgp_nodes(4, tmp_path) as world:
        one, two, _, four = world.nodes
        world.put(document("BGPConfiguration", "default", listenPort=PORT, nodeToNodeMeshEnabled=False))
        for other in (two, four):
            own = {"ipv4Address": f"{other.address}/24", "asNumber": 64999}
            world.put(document("Node", other.name, bgp=own))
            for node, to in ((one, other), (other, one)):
                asn = 64999 if to is other else 64512
                name = f"{node.name}-{to.name}"
                peer = {"node": node.name, "peerIP": f"{to.address}:{PORT}", "asNumber": asn}
                world.put(document("BGPPeer", name, **peer))
        both = {str(two.block), str(four.block)}
        await world.until(lambda: both <= one.next_hops().keys())
        one.bgp.follow_links(cables(True, True))
        assert both <= one.next_hops().keys()
        one.bgp.follow_links(cables(False, False))
        assert both <= one.next_hops().keys()
        one.bgp.follow_links(cables(False, True))
        assert both & one.next_hops().keys() == {str(four.block)}
        assert one.peer(two)["last_error"] == "its link eth1 is down"
        since = one.sessions()
        assert since.keys() == {four.address}
        one.bgp.follow_links(cables(True, True))
        await world.until(lambda: both <= one.next_hops().keys())
        assert one.sessions()[four.address] == since[four.address]
