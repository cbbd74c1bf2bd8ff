"""What no pod and no stranger may send: the packets, and what the workload filter says of them.

Promises: pure; the script needs nothing but Python where it runs. Does not know: machines, steps.
"""

from __future__ import annotations

import re

PACKETS = 5
"""Of each sort."""
DROP = re.compile(r'counter packets (\d+) bytes \d+ drop comment "([a-z-]+)"')
OF_A_POD = frozenset({"spoofed-source", "bgp", "vxlan", "ipip"})
OF_A_STRANGER = frozenset({"ipip-of-no-node"})
SCRIPT = f"""\
import socket, struct, sys

own, lie, pod, node = sys.argv[1:5]
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)


def ip(source, target, protocol, payload):
    addresses = socket.inet_aton(source) + socket.inet_aton(target)
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0) + addresses + payload


def udp(port):
    return struct.pack("!HHHH", 40000, port, 8, 0)


sorts = {{
    "spoofed-source": (pod, ip(lie, pod, 17, udp(5353))),
    "bgp": (node, ip(own, node, 6, struct.pack("!HHIIBBHHH", 40000, 179, 1, 0, 0x50, 2, 1024, 0, 0))),
    "vxlan": (node, ip(own, node, 17, udp(4789))),
    "ipip": (node, ip(own, node, 4, ip(lie, pod, 17, udp(5353)))),
    "ipip-of-no-node": (node, ip(own, node, 4, ip(lie, pod, 17, udp(5353)))),
}}
for sort in sys.argv[5:]:
    target, packet = sorts[sort]
    for _ in range({PACKETS}):
        raw.sendto(packet, (target, 0))
"""
"""Arguments: own address, another's, a far pod's, its node's, then the sorts of packets to send."""


def sending(arguments: str) -> str:
    """A command of a shell that sends them."""
    return f"python3 - {arguments} <<'END'\n{SCRIPT}END"


def drops(listed: str) -> dict[str, int]:
    """Reason -> packets dropped, from `nft list table inet tortie`."""
    found: dict[str, int] = {}
    for count, reason in DROP.findall(listed):
        found[reason] = found.get(reason, 0) + int(count)
    return found


def more(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """What was dropped in between."""
    return {
        reason: count - before.get(reason, 0)
        for reason, count in after.items()
        if count > before.get(reason, 0)
    }
