"""What programs on the machines answer, as values: ping, ip, FRR.

Promises: pure; text that is not what the program prints is an error, never an empty answer.
Does not know: how the answers were got.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agent.lab.lab_plan import Mode

SUMMARY = re.compile(r"(\d+) packets transmitted, (\d+) received")
REPLY = re.compile(r"icmp_seq=(\d+) ttl=(\d+) time=")
TARGET = re.compile(r"^PING (\S+) ", re.MULTILINE)
FIRST_HOPS = 62
"""The TTL left of 64 after both nodes of a pod and its far neighbour."""


class NotAnAnswer(Exception):
    """One sentence: what was expected, what came."""


@dataclass(frozen=True, slots=True)
class Pings:
    """What came of the requests to one address."""

    target: str
    sent: int
    answered: int
    longest_gap: int
    """The most requests in a row without a reply."""
    ttls: frozenset[int]

    @property
    def lost(self) -> int:
        """Requests without a reply."""
        return self.sent - self.answered


def pings(output: str) -> list[Pings]:
    """One value for each ping in the output of several; a last request whose reply was under way does not count."""
    found = []
    for part in re.split(r"^(?=PING )", output, flags=re.MULTILINE):
        target, summary = TARGET.search(part), SUMMARY.search(part)
        if target is None and not part.strip():
            continue
        if target is None or summary is None:
            raise NotAnAnswer(f"ping did not end with its summary: {part.strip()[-200:]!r}")
        replies = {int(number): int(ttl) for number, ttl in REPLY.findall(part)}
        sent = int(summary[1])
        if sent > 1 and sent not in replies:
            sent -= 1
        gap = longest = 0
        for number in range(1, sent + 1):
            gap = 0 if number in replies else gap + 1
            longest = max(longest, gap)
        answered = sum(number <= sent for number in replies)
        found.append(Pings(target[1], sent, answered, longest, frozenset(replies.values())))
    return found


@dataclass(frozen=True, slots=True)
class Route:
    """A route of the main table; `device` is empty for a blackhole."""

    destination: str
    device: str
    gateway: str
    protocol: str


def routes(answer: str) -> list[Route]:
    """What `ip -j route show` printed."""
    try:
        rows = json.loads(answer or "[]")
        return [
            Route(
                row["dst"],
                "" if row.get("type") == "blackhole" else row.get("dev", ""),
                row.get("gateway", ""),
                str(row.get("protocol", "")),
            )
            for row in rows
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise NotAnAnswer(f"ip -j route: {answer[:200]!r}: {error}") from error


def own_blocks(found: Iterable[Route]) -> set[str]:
    """The blocks of the node that has these routes."""
    return {route.destination for route in found if not route.device and route.protocol == "bird"}


def devices(found: Iterable[Route], blocks: Mapping[str, str]) -> dict[str, str]:
    """Owner of a block -> the device that leads there; only owners that are routed. `blocks`: block -> owner."""
    return {
        blocks[route.destination]: route.device
        for route in found
        if route.destination in blocks and route.device
    }


def device(mode: Mode, *, vxlan: bool, same_segment: bool) -> str:
    """By which device a node must reach another one's pods. `vxlan`: what cross-subnet encapsulates with."""
    if mode is Mode.NONE or (mode is Mode.CROSS_SUBNET and same_segment):
        return "eth1"
    if mode is Mode.VXLAN or (mode is Mode.CROSS_SUBNET and vxlan):
        return "vxlan.calico"
    return "tunl0"


def established(answer: str) -> set[str]:
    """The peers in session, of what FRR's `show bgp summary json` printed."""
    try:
        peers = json.loads(answer)["ipv4Unicast"]["peers"]
        return {peer.removeprefix("*") for peer, facts in peers.items() if facts["state"] == "Established"}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotAnAnswer(f"show bgp summary json: {answer[:200]!r}: {error}") from error
