"""The lab's plan and pictures: names, addresses, modes, the drawn topology, the matrix."""

from __future__ import annotations

import json
from ipaddress import IPv4Address

import pytest

from agent.lab import show
from agent.lab.icmp import PingCount, checksum, request
from agent.lab.lab_plan import MOST_NODES, LabError, Mode, plan, with_mode
from agent.lab.lifecycle import SEED_POOL
from agent.lab.pods import Pod
from agent.tables import columns, ruled


@pytest.mark.parametrize(
    ("mode", "ipip", "expected"),
    [
        (Mode.NONE, True, ("Never", "Never")),
        (Mode.VXLAN, True, ("Never", "Always")),
        (Mode.IPIP, True, ("Always", "Never")),
        (Mode.CROSS_SUBNET, True, ("CrossSubnet", "Never")),
        (Mode.CROSS_SUBNET, False, ("Never", "CrossSubnet")),
    ],
)
def test_only_the_mode_of_a_pool_is_changed(mode: Mode, ipip: bool, expected: tuple[str, str]) -> None:
    seed = json.loads(SEED_POOL.read_text())
    spec = with_mode(seed, mode, ipip=ipip)["items"][0]["spec"]
    assert (spec["ipipMode"], spec["vxlanMode"]) == expected
    assert {**spec, "ipipMode": "", "vxlanMode": ""} == {
        **seed["items"][0]["spec"],
        "ipipMode": "",
        "vxlanMode": "",
    }


def test_the_articles_mode_leaves_the_articles_pool_unchanged() -> None:
    seed = json.loads(SEED_POOL.read_text())
    assert with_mode(seed, Mode.IPIP, ipip=True) == seed


def test_the_largest_lab_has_distinct_addresses_within_its_segments() -> None:
    made = plan("big", MOST_NODES, Mode.CROSS_SUBNET)
    assert len({node.interface.ip for node in made.nodes}) == MOST_NODES
    assert all(node.interface.network == made.segments[node.segment] for node in made.nodes)


def test_two_labs_share_no_name() -> None:
    one, other = plan("a", 3, Mode.NONE), plan("b", 3, Mode.NONE)
    assert {node.namespace for node in one.nodes}.isdisjoint(node.namespace for node in other.nodes)
    assert not one.prefix.startswith(other.prefix)
    with pytest.raises(LabError, match="no node 'node9'; it has node1, node2, node3"):
        one.node("node9")


def test_the_topology_shows_each_pod_below_its_node() -> None:
    made = plan("lab", 2, Mode.VXLAN)
    drawn = show.topology(
        made, Mode.VXLAN, [Pod("web", "node1", "x", "192.168.31.65"), Pod("db", "node2", "y", "192.168.0.1")]
    )
    assert [line.rstrip() for line in drawn.splitlines()] == [
        "lab lab, mode vxlan",
        "",
        "   etcd 172.26.0.1:2379",
        "   |",
        "   ======== fabric br0 172.26.0.0/20 ========",
        "             |                     |",
        "   +-------------------+   +----------------+",
        "   | node1             |   | node2          |",
        "   | 172.26.0.11       |   | 172.26.0.12    |",
        "   +-------------------+   +----------------+",
        "   | web 192.168.31.65 |   | db 192.168.0.1 |",
        "   +-------------------+   +----------------+",
    ]


def test_the_matrix_counts_what_was_lost() -> None:
    pods = [Pod("a", "node1", "x", "192.168.0.1"), Pod("b", "node2", "y", "192.168.0.2")]
    counts = {("a", "b"): PingCount(2, 2, 62), ("b", "a"): PingCount(2, 1, 62)}
    assert show.matrix(counts, pods).splitlines() == [
        "FROM \\ TO   a      b",
        "a (node1)   .      ttl=62",
        "b (node2)   -1/2   .",
        "",
        "4 pings, 3 replies, 1 lost",
    ]


def test_an_echo_request_sums_to_zero() -> None:
    packet = request(7, 1, 0.5)
    assert (packet[0], packet[1]) == (8, 0)
    assert checksum(packet) == 0


def test_tables_fit_their_longest_cell() -> None:
    assert (
        columns(("NAME", "CIDR"), [("a-long-name", "10.0.0.0/8")])
        == "NAME          CIDR\na-long-name   10.0.0.0/8"
    )
    assert ruled(("A", "LONG"), [("abc", 1)]).splitlines() == [
        "+-----+------+",
        "|  A  | LONG |",
        "+-----+------+",
        "| abc | 1    |",
        "+-----+------+",
    ]


def test_a_pods_address_is_a_value() -> None:
    assert Pod("a", "node1", "x", "192.168.0.1").ip == IPv4Address("192.168.0.1")
