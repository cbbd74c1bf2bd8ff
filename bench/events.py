"""Route events of a namespace as they happen, with the time of each: `python -m bench.events`.

Prints a line per event: `+` or `-`, the destination, and the monotonic clock; `ready` first. Also used to count events.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable

from agent.dataplane.netlink_socket import open_socket
from agent.dataplane.rtnetlink import RTM_DELROUTE, RTM_NEWROUTE, decode_route, messages
from bench.place import BenchError

BUFFER_BYTES = 64 << 20
DATAGRAM_BYTES = 1 << 16
RTNLGRP_IPV4_ROUTE = 7


def main() -> None:
    """Print events until killed."""
    listening = open_socket(socket.NETLINK_ROUTE, BUFFER_BYTES, (RTNLGRP_IPV4_ROUTE,))
    listening.setblocking(True)
    print("ready", flush=True)
    while True:
        data = listening.recv(DATAGRAM_BYTES)
        now, lines = time.monotonic(), []
        for found in messages(data):
            if found.type in (RTM_NEWROUTE, RTM_DELROUTE):
                route = decode_route(data, found.start, found.end, str)
                if route is not None:
                    sign = "+" if found.type == RTM_NEWROUTE else "-"
                    lines.append(f"{sign} {route.key.destination} {now}\n")
        sys.stdout.write("".join(lines))
        sys.stdout.flush()


class Events:
    """The same, read by another process."""

    def __init__(self, inside: Callable[[list[str]], list[str]]) -> None:
        """`inside` makes a command one that runs in the namespace."""
        self._process = subprocess.Popen(
            inside([sys.executable, "-m", "bench.events"]), stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self._lines = self._process.stdout
        if self._lines.readline() != "ready\n":
            raise BenchError("the event listener did not start")

    def until(self, wanted: set[str]) -> float:
        """When the last of these `+ PREFIX` or `- PREFIX` came."""
        missing, last = set(wanted), 0.0
        while missing:
            line = self._lines.readline().rsplit(" ", 1)
            if len(line) != 2:
                raise BenchError("the event listener ended")
            if line[0] in missing:
                missing.discard(line[0])
                last = float(line[1])
        return last

    def end(self) -> list[str]:
        """Stop listening; the events not read yet."""
        self._process.terminate()
        rest = self._lines.read().splitlines()
        self._process.wait()
        return rest


if __name__ == "__main__":
    main()
