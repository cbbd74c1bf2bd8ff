"""What ping, ip and FRR print, as the smoke test understands it."""

from __future__ import annotations

import pytest

from agent.lab.lab_plan import Mode
from vagrant.answers import (
    NotAnAnswer,
    Pings,
    Route,
    device,
    devices,
    established,
    own_blocks,
    pings,
    routes,
)

WATCHED = """\
PING 192.168.16.65 (192.168.16.65) 56(84) bytes of data.
64 bytes from 192.168.16.65: icmp_seq=1 ttl=62 time=3.02 ms
64 bytes from 192.168.16.65: icmp_seq=2 ttl=62 time=2.10 ms
From 192.168.140.193 icmp_seq=3 Destination Host Unreachable
64 bytes from 192.168.16.65: icmp_seq=6 ttl=62 time=2.51 ms

--- 192.168.16.65 ping statistics ---
7 packets transmitted, 3 received, +1 errors, 57.1429% packet loss, time 1204ms
rtt min/avg/max/mdev = 2.104/2.543/3.020/0.374 ms
PING 192.168.16.66 (192.168.16.66) 56(84) bytes of data.

--- 192.168.16.66 ping statistics ---
1 packets transmitted, 0 received, 100% packet loss, time 0ms

"""
TABLE = """[
 {"dst":"default","gateway":"172.27.0.1","dev":"eth0","protocol":"dhcp","flags":[]},
 {"type":"blackhole","dst":"192.168.16.64/26","protocol":"bird","flags":[]},
 {"dst":"192.168.16.65","dev":"calice0906292e2","scope":"link","flags":[]},
 {"dst":"192.168.140.192/26","gateway":"172.26.16.12","dev":"tunl0","protocol":"bird","flags":["onlink"]}
]"""


def test_pings_are_counted_with_their_longest_gap_and_without_one_that_was_under_way() -> None:
    assert pings(WATCHED) == [
        Pings("192.168.16.65", 6, 3, 3, frozenset({62})),
        Pings("192.168.16.66", 1, 0, 1, frozenset()),
    ]


def test_no_pings_are_no_values() -> None:
    assert pings("\n") == []


@pytest.mark.parametrize("said", ["PING 10.0.0.1 (10.0.0.1) 56 bytes", "ping: unknown host"])
def test_a_ping_that_did_not_end_is_an_error(said: str) -> None:
    with pytest.raises(NotAnAnswer, match="did not end with its summary"):
        pings(said)


def test_routes_tell_a_nodes_own_blocks_and_the_devices_to_the_others() -> None:
    found = routes(TABLE)
    assert found[1] == Route("192.168.16.64/26", "", "", "bird")
    assert own_blocks(found) == {"192.168.16.64/26"}
    blocks = {"192.168.16.64/26": "node1", "192.168.140.192/26": "node2", "192.168.163.192/26": "node3"}
    assert devices(found, blocks) == {"node2": "tunl0"}
    assert routes("") == []


@pytest.mark.parametrize("said", ["{", '[{"gateway": "1.1.1.1"}]', "3"])
def test_what_is_no_route_table_is_an_error(said: str) -> None:
    with pytest.raises(NotAnAnswer, match="ip -j route"):
        routes(said)


@pytest.mark.parametrize(
    ("mode", "vxlan", "same", "elsewhere"),
    [
        (Mode.NONE, False, "eth1", "eth1"),
        (Mode.VXLAN, False, "vxlan.calico", "vxlan.calico"),
        (Mode.IPIP, False, "tunl0", "tunl0"),
        (Mode.CROSS_SUBNET, False, "eth1", "tunl0"),
        (Mode.CROSS_SUBNET, True, "eth1", "vxlan.calico"),
    ],
)
def test_each_mode_has_its_device_on_the_segment_and_across(
    mode: Mode, vxlan: bool, same: str, elsewhere: str
) -> None:
    assert device(mode, vxlan=vxlan, same_segment=True) == same
    assert device(mode, vxlan=vxlan, same_segment=False) == elsewhere


def test_frrs_summary_tells_who_is_in_session() -> None:
    peers = '"*172.26.0.11": {"state": "Established"}, "*172.26.0.13": {"state": "Active"}'
    assert established(f'{{"ipv4Unicast": {{"peers": {{{peers}}}}}}}') == {"172.26.0.11"}
    with pytest.raises(NotAnAnswer, match="summary"):
        established("% BGP instance not found")
