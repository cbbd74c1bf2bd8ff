"""What the smoke test sends from a pod that may not, and how it reads what was dropped."""

from __future__ import annotations

import socket
import subprocess

from tests.fixtures.namespace import fresh_namespace, ip
from vagrant.forbidden import OF_A_POD, OF_A_STRANGER, PACKETS, drops, more, sending

LISTED = """\
table inet tortie {
	chain prerouting {
		ct state established accept
		counter packets 4 bytes 112 drop comment "spoofed-source"
		ip protocol ipip counter packets 2 bytes 96 drop comment "ipip"
		ip6 nexthdr ipip counter packets 1 bytes 96 drop comment "ipip"
	}
}
"""
OWN, LIE, POD, NODE = "10.1.0.1", "192.0.2.7", "10.2.0.1", "172.26.0.12"


def test_drops_are_counted_by_reason_and_compared() -> None:
    before = drops(LISTED)
    assert before == {"spoofed-source": 4, "ipip": 3}
    assert more(before, {"spoofed-source": 9, "ipip": 3, "bgp": 1}) == {"spoofed-source": 5, "bgp": 1}


def test_the_script_sends_each_sort_from_where_it_says() -> None:
    sorts = sorted(OF_A_POD | OF_A_STRANGER)
    with fresh_namespace():
        for words in ("link add eth0 type veth peer name far", "link set eth0 up", "link set far up"):
            ip(words)
        ip(f"address add {OWN}/32 dev eth0")
        ip("route add default dev eth0")
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)) as heard:
            heard.bind(("far", 0x0800))
            heard.settimeout(5)
            for target in (POD, NODE):
                ip(f"neigh add {target} lladdr 02:00:00:00:00:01 dev eth0")
            subprocess.run(["bash", "-c", sending(" ".join((OWN, LIE, POD, NODE, *sorts)))], check=True)
            seen = [heard.recv(2048) for _ in range(PACKETS * len(sorts))]
    ends = [tuple(socket.inet_ntoa(packet[at : at + 4]) for at in (12, 16)) for packet in seen]
    assert ends.count((LIE, POD)) == PACKETS
    assert ends.count((OWN, NODE)) == PACKETS * (len(sorts) - 1)
    assert sorted({packet[9] for packet in seen}) == [4, 6, 17]
    ports = {int.from_bytes(packet[22:24]) for packet in seen if packet[9] in (6, 17)}
    assert ports == {179, 4789, 5353}
