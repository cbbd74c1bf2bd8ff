"""What peers announce and nobody may have from them is a trouble for each peer, as long as it lasts."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_network
from pathlib import Path

from agent.clock import SystemClock
from agent.peering.refused_prefixes import MOST_PEERS, refused_prefixes
from agent.trouble import Trouble, TroubleKind
from bgp.peer_config import PeerConfig, SpeakerConfig
from bgp.policy.policy import Policy
from bgp.policy.prefix_filter import PrefixFilter
from bgp.transport.speaker import Speaker
from bgp.wire.families import Family
from bgp.wire.nlri import pack
from tests.scenes.bgp.controllers import bgp_nodes, document
from tests.scenes.dataplane.reconcilers import Lines

POOL = PrefixFilter(within=(ip_network("10.0.0.0/8"),), outside="lies in no pool")


def speaker(peers: int) -> Speaker:
    made = Speaker(
        SpeakerConfig(64512, IPv4Address("172.26.0.1"), IPv4Address("172.26.0.1")),
        SystemClock(),
        lambda: None,
        Lines(),
    )
    addresses = [IPv4Address("172.26.1.0") + number for number in range(peers)]
    made.instance.configure(
        {
            one: PeerConfig(one, 64512, description=f"n{number}", policy=Policy(import_filter=POOL))
            for number, one in enumerate(addresses)
        },
        0.0,
    )
    return made


def refuse(made: Speaker, *prefixes: str) -> None:
    for peer in made.instance.peers.values():
        rib = peer.adj_ribs_in[Family.IPV4]
        rib.rejected.update({pack(ip_network(one)): "lies in no pool" for one in prefixes})
        rib.filtered.update(dict.fromkeys(rib.rejected))


def test_a_peers_refused_prefixes_are_one_trouble_that_names_a_few() -> None:
    made = speaker(1)
    assert list(refused_prefixes(made)) == list(refused_prefixes(None)) == []
    refuse(made, *(f"192.168.{number}.0/24" for number in range(5)))
    (found,) = refused_prefixes(made)
    assert found == Trouble(
        TroubleKind.PREFIX,
        "peer 172.26.1.0 (n0)",
        "5 of its prefixes are refused: 192.168.0.0/24 lies in no pool, 192.168.1.0/24 lies in no pool, "
        "192.168.2.0/24 lies in no pool and 2 more",
        "they are not used",
        "see: tortie bgp routes --received 172.26.1.0",
    )


def test_many_such_peers_are_counted() -> None:
    made = speaker(MOST_PEERS + 7)
    refuse(made, "192.168.0.0/24")
    found = list(refused_prefixes(made))
    assert len(found) == MOST_PEERS + 1
    assert str(found[-1]) == "prefixes of 7 more peers are refused"


async def test_the_mesh_and_a_peer_of_a_bgppeer_have_each_their_own_filter(tmp_path: Path) -> None:
    async with bgp_nodes(3, tmp_path) as world:
        one, two, three = world.nodes
        world.put(document("BGPPeer", "p", node="n1", peerIP=two.address, asNumber=64512))
        mesh = PrefixFilter(refused=((ip_network("10.0.3.0/24"), "nobody's from the mesh"),))
        peers = PrefixFilter(refused=((ip_network("10.0.2.0/24"), "nobody's from anybody"),))
        one.filters = mesh, peers
        one.reconcile()
        await world.until(lambda: len(list(one.bgp.refused())) == 2)
        about = {str(trouble).split(": ")[0].split(" (")[0]: str(trouble) for trouble in one.bgp.refused()}
        assert "10.0.2.0/26 nobody's from anybody" in about[f"peer {two.address}"]
        assert "10.0.3.0/26 nobody's from the mesh" in about[f"peer {three.address}"]
        assert not list(two.bgp.refused())
        one.filters = PrefixFilter(), PrefixFilter()
        one.reconcile()
        await world.until(lambda: not list(one.bgp.refused()))
