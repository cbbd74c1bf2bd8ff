"""Route events of a namespace as they happen, with the time of each: `python -m bench.events [GATEWAY COUNT]`.

Prints a line per event: `+` or `-`, the destination, and the monotonic clock; `ready` first. Also used to count events.
With a gateway it only counts routes that go through it, which is quick enough not to lag behind the kernel, and prints
the time of the last of them.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable

from agent.netlink.netlink_socket import open_socket
from agent.netlink.rtnetlink import RTA_GATEWAY, RTM_DELROUTE, RTM_NEWROUTE, attribute, decode_route, messages
from bench.testbed import BenchError

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


def count(gateway: str, many: int) -> None:
    """Print when so many routes through a gateway have been told of."""
    listening = open_socket(socket.NETLINK_ROUTE, BUFFER_BYTES, (RTNLGRP_IPV4_ROUTE,))
    listening.setblocking(True)
    print("ready", flush=True)
    wanted = attribute(RTA_GATEWAY, socket.inet_aton(gateway))
    while many > 0:
        many -= listening.recv(DATAGRAM_BYTES).count(wanted)
    print(time.monotonic(), flush=True)


class Turned:
    """The same, waited for by another process."""

    def __init__(self, inside: Callable[[list[str]], list[str]], gateway: str, many: int) -> None:
        """`inside` makes a command one that runs in the namespace."""
        command = [sys.executable, "-m", "bench.events", gateway, str(many)]
        self._process = subprocess.Popen(inside(command), stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._lines = self._process.stdout
        if self._lines.readline() != "ready\n":
            raise BenchError("the event listener did not start")

    def at(self, seconds: float) -> float:
        """When the last one came. Raises BenchError."""
        try:
            said, _ = self._process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise BenchError(f"the routes did not turn within {seconds:g} s") from None
        return float(said)


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
    if len(sys.argv) == 3:
        count(sys.argv[1], int(sys.argv[2]))
    else:
        main()
