"""The looking glass from question to printed line."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network, ip_address
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from agent.cli.commands.bgp import in_full, page_text, paths_table, peers_table
from agent.cli.commands.node import certificate_notes, peers_of
from agent.clock import SystemClock
from agent.dataplane.inputs.next_hops import Resolution
from agent.netlink.objects import NextHop, RouteKey
from agent.peering.looking_glass_api import LookingGlass, find_peer
from agent.peering.peers import DesiredPeer, PeerKind
from bgp.looking_glass import MOST_PREFIXES
from bgp.peer_config import PeerConfig, SpeakerConfig
from bgp.transport.speaker import Speaker
from tests.scenes.bgp.controllers import BgpNode, bgp_nodes, document

OWN = IPv4Address("192.0.2.1")
PEERS = {
    ip_address(address): DesiredPeer(PeerConfig(ip_address(address), 64512, description=name), kind, resource)
    for address, name, kind, resource in (
        ("192.0.2.2", "node2", PeerKind.MESH, ""),
        ("fd00::2", "node2", PeerKind.MESH, ""),
        ("192.0.2.9", "tor", PeerKind.GLOBAL, "tor"),
    )
}


def speaker() -> Speaker:
    return Speaker(SpeakerConfig(64512, OWN, OWN), SystemClock(), lambda: None, structlog.get_logger())


@pytest.mark.parametrize(("word", "address"), [("192.0.2.9", "192.0.2.9"), ("tor", "192.0.2.9")])
def test_a_peer_is_named_by_its_address_or_its_name(word: str, address: str) -> None:
    assert find_peer(PEERS, word) == ip_address(address)


@pytest.mark.parametrize(
    ("question", "why"),
    [
        ('{"which": "received", "peer": "node9"}', "node9 is not a peer; peers are node2, tor"),
        (
            '{"which": "received", "peer": "node2"}',
            "node2 has several sessions: 192.0.2.2, fd00::2; name one",
        ),
        (
            '{"which": "received", "peer": "8.8.8.8"}',
            "8.8.8.8 is not a peer; peers are 192.0.2.2, fd00::2, 192.0.2.9",
        ),
        ('{"wich": "received"}', "the question cannot be read: Object contains unknown field `wich`"),
        ('{"which": "all"}', "'all' is not a valid RibView"),
        ('{"prefix": "10.0.0.1/8"}', "10.0.0.1/8 has host bits set"),
    ],
)
def test_a_wrong_question_is_one_sentence(question: str, why: str) -> None:
    with pytest.raises(ValueError) as caught:
        LookingGlass(speaker(), PEERS).paths(question)
    assert str(caught.value) == why


def test_a_drained_node_says_so() -> None:
    with pytest.raises(ValueError, match="does not speak BGP now"):
        LookingGlass(None, {}).paths("")


def test_a_large_table_comes_in_bounded_pages() -> None:
    made, seen, after, pages = speaker(), set(), "", 0
    made.announce({IPv4Network((number << 12, 20)) for number in range(20_000)})
    while True:
        answer = LookingGlass(made, {}).paths(json.dumps({"after": after}))
        assert len(answer["paths"]) <= MOST_PREFIXES
        seen |= {row["prefix"] for row in answer["paths"]}
        pages += 1
        if not answer["last"]:
            break
        after = answer["last"]
    assert (len(seen), pages) == (20_000, 10)


def rows(node: BgpNode, **question: str) -> list[dict[str, Any]]:
    answer = msgspec.json.decode(
        msgspec.json.encode(node.bgp.looking_glass.paths(json.dumps(question)), enc_hook=str)
    )
    assert isinstance(answer, dict)
    return list(answer["paths"])


async def test_what_two_nodes_say_of_each_other_is_shown(tmp_path: Path) -> None:
    async with bgp_nodes(2, tmp_path) as world:
        one, two = world.nodes
        filters = document(
            "BGPFilter",
            "f",
            importV4=[{"action": "Accept", "operations": [{"addCommunity": {"value": "65000:7"}}]}],
        )
        world.put(filters)
        world.put(document("BGPPeer", "p", node="n1", peerIP=two.address, asNumber=64512, filters=["f"]))
        await world.until(
            lambda: RouteKey(one.block) in two.bgp.learned and RouteKey(two.block) in one.bgp.learned
        )
        assert [(row["prefix"], row["name"], row["reason"]) for row in rows(one)] == [
            ("10.0.1.0/26", None, "the only path"),
            ("10.0.2.0/26", "n2", "the only path"),
            ("fd01:0:0:1::/122", None, "the only path"),
        ]
        held = Resolution((NextHop(ip_address("192.0.2.254"), "eth0"),), "no route of this host leads there")
        assert [row["resolved"] for row in one.bgp.looking_glass.paths("", lambda _: held)["paths"]] == [
            "",
            "via 192.0.2.254 dev eth0; next hop does not resolve: no route of this host leads there",
            "",
        ]
        (received,) = rows(one, which="received", peer="n2")
        assert (received["reason"], received["communities"], received["next_hop"]) == (
            "in use",
            ["65000:7"],
            two.address,
        )
        (out,) = rows(one, which="advertised", peer="n2")
        assert (out["prefix"], out["reason"], out["local_pref"]) == ("10.0.1.0/26", "own block", 2147482623)
        text = paths_table(rows(one), heads=True).splitlines()
        assert text[0].split() == ["PREFIX", "NEXT", "HOP", "PEER", "LOCALPREF", "AS", "PATH", "REASON"]
        assert text[2].split() == [
            *("*", "10.0.2.0/26", two.address, "n2", "2147482623", "-"),
            *("the", "only", "path;", "65000:7"),
        ]
        pages = [[row] for row in rows(one)]
        for form, decode in (("json", json.loads), ("yaml", msgspec.yaml.decode)):
            shown = "".join(page_text(page, form, first=not number) for number, page in enumerate(pages))
            assert decode(shown + ("\n]" if form == "json" else "")) == rows(one)
            assert page_text([], form, first=True) == ""
        answer = msgspec.json.decode(msgspec.json.encode(one.bgp.looking_glass.peer("n2"), enc_hook=str))
        full = in_full(answer)
        for part in (
            f"peer          {two.address} port 17902, n2, AS 64512",
            "type          node specific, BGPPeer p",
            "state         Established since 20",
            "hold time     9 s",
            "filters       f",
            "ipv4          received 1 (refused 0, stale 0), advertised 1",
        ):
            assert part in full
        capability = next(text for text in full.splitlines() if text.startswith("graceful restart"))
        assert "restart seconds 120" in capability
        assert "families IPv4" in capability
        table = peers_table([answer]).splitlines()[1].split()
        assert table[:6] == [two.address, "n2", "64512", "node", "specific", "Established"]


def test_a_peer_without_a_session_is_shown_with_its_last_error() -> None:
    answer = {
        "address": "192.0.2.9",
        "port": 179,
        "description": "tor",
        "asn": 65001,
        "type": "global",
        "resource": "tor",
        "state": "Active",
        "since": None,
        "router_id": None,
        "hold_seconds": 0,
        "options": ["password"],
        "filters": [],
        "last_error": "Connection refused",
        "restarting": True,
        "refused": 2,
        "counts": {},
        "offered": None,
        "received_offer": None,
        "received": 0,
        "announced": 0,
    }
    full = in_full(answer)
    assert "last error    Connection refused" in full
    assert "options       password" in full
    assert "refused       2 connections from its address while its session lived" in full
    assert full.endswith("no session, so nothing is agreed")


def test_node_status_lists_the_peers_of_each_version_of_ip() -> None:
    peer = {
        "type": "node-to-node mesh",
        "state": "Established",
        "since": "2026-01-02T03:04:05.6Z",
        "last_error": "",
    }
    status = {"peers": [{**peer, "address": "10.0.0.2"}, {**peer, "address": "fd00::2", "state": "Active"}]}
    four, six = ("\n".join(peers_of(status, *which)) for which in (("IPv4", "."), ("IPv6", ":")))
    assert "| 10.0.0.2     | node-to-node mesh | up    | 2026-01-02 03:04:05 | Established |" in four
    assert "fd00::2" not in four
    assert "| fd00::2      | node-to-node mesh | start |" in six
    assert peers_of({"peers": []}, "IPv6", ":") == ["No IPv6 peers found."]


def test_until_when_certificates_are_valid_is_shown() -> None:
    status = {"etcd": {"certificates": {"/etc/tortie/client.pem": "2027-01-02T03:04:05Z"}}}
    assert certificate_notes(status) == ["           /etc/tortie/client.pem is valid until 2027-01-02"]
    assert certificate_notes({"etcd": {"certificates": {}}}) == []
