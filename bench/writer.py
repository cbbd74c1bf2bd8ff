"""The floor of (a): `python -m bench.writer FEED COUNT SETS` writes a feed's routes from a list that is ready.

Prints the seconds that writing took and the seconds that deleting took, both by the agent's own batches and sockets.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

from agent.netlink import rtroutes
from agent.netlink.devices import device_index
from agent.netlink.netlink_socket import RequestSocket
from agent.netlink.objects import RTPROT_BIRD, Route, RouteKey
from bench.feeds import FEEDS, Feed


def routes(feed: Feed) -> list[Route]:
    """Routes that a speaker would write when it has taken the feed."""
    found = []
    for number, prefixes in feed.runs():
        gateway = IPv4Address(feed.next_hop(number))
        for one in prefixes:
            destination = IPv4Network((feed.prefix(one), feed.length))
            found.append(Route(RouteKey(destination), gateway=gateway, device="eth0", protocol=RTPROT_BIRD))
    return found


async def write(feed: Feed) -> tuple[float, float]:
    """Seconds that writing every route took, and seconds that deleting them took."""
    index = device_index("eth0")
    desired = routes(feed)
    puts = rtroutes.encoded(desired, lambda route: rtroutes.route_request(route, index))
    drops = rtroutes.encoded(desired, rtroutes.route_deletion)
    socket = RequestSocket()
    try:
        times = []
        for requests in (puts, drops):
            began = time.monotonic()
            refused = await socket.execute(requests)
            times.append(time.monotonic() - began)
            if refused:
                sys.exit(f"the kernel refused {len(refused)} of {len(requests)} routes")
        return times[0], times[1]
    finally:
        socket.close()


if __name__ == "__main__":
    _, name, count, sets = sys.argv
    print(*asyncio.run(write(replace(FEEDS[name], count=int(count), sets=int(sets)))))
