"""A node that no route leads to, behind a tunnel whose routes are all there, is told."""

from __future__ import annotations

from ipaddress import IPv4Interface, ip_address, ip_network

import pytest

from agent.dataplane.explain.unreached_nodes import MOST_NAMED, unreached_nodes
from agent.dataplane.inputs.facts import Facts, NodeAddresses
from ipam.model import EncapsulationMode, NodeName, Pool

ME, NEVER, ALWAYS = NodeName("me"), EncapsulationMode.NEVER, EncapsulationMode.ALWAYS
WHY = "no route of this host leads there"


def facts(nodes: int = 2, vxlan: EncapsulationMode = ALWAYS, ipip: EncapsulationMode = NEVER) -> Facts:
    names = [ME, *(NodeName(f"n{number}") for number in range(1, nodes + 1))]
    return Facts(
        node=ME,
        pools=(Pool("p", ip_network("192.168.0.0/16"), 26, ipip=ipip, vxlan=vxlan),),
        nodes={name: NodeAddresses(IPv4Interface(f"172.26.0.{at + 1}/20")) for at, name in enumerate(names)},
        block_owners={ip_network(f"192.168.{at}.0/26"): name for at, name in enumerate(names)},
    )


def sentences(given: Facts, unreached: dict[str, str]) -> list[str]:
    return [
        str(one) for one in unreached_nodes(given, {ip_address(at): why for at, why in unreached.items()})
    ]


@pytest.mark.parametrize("tunnel", ["vxlan", "ipip"])
def test_a_node_without_a_way_is_named_with_what_is_lost_and_what_to_do(tunnel: str) -> None:
    given = facts(vxlan=ALWAYS if tunnel == "vxlan" else NEVER, ipip=ALWAYS if tunnel == "ipip" else NEVER)
    assert sentences(given, {"172.26.0.2": WHY}) == [
        f"the address 172.26.0.2 of n1: {WHY}; what the tunnels send to its block is lost; "
        "see: ip route get 172.26.0.2"
    ]
    (both,) = sentences(given, {"172.26.0.2": WHY, "172.26.0.3": WHY})
    assert both.startswith(
        f"the address 172.26.0.2 of n1 and those of 1 more nodes: {WHY}; what the tunnels send to 2 b"
    )


def test_who_is_reached_has_no_block_or_no_tunnel_is_no_trouble_nor_is_this_node() -> None:
    assert sentences(facts(), {}) == []
    assert sentences(facts(), {"172.26.0.1": WHY, "172.26.0.99": WHY}) == []
    assert sentences(facts(vxlan=NEVER), {"172.26.0.2": WHY}) == []


def test_very_many_reasons_are_counted() -> None:
    many = MOST_NAMED + 3
    found = sentences(facts(many), {f"172.26.0.{at + 2}": f"reason {at}" for at in range(many)})
    assert (len(found), found[-1]) == (MOST_NAMED + 1, "3 more reasons why nodes are not reached")
