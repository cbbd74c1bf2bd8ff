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
from agent.netlink.rtnetlink import RTM_DELROUTE, RTM_NEWROUTE, attribute, messages
from agent.netlink.rtroutes import RTA_GATEWAY, decode_route
from bench.testbed import BenchError

BUFFER_BYTES = 64 << 20
DATAGRAM_BYTES = 1 << 16
RTNLGRP_IPV4_ROUTE = 7


def _listening() -> socket.socket:
    listening = open_socket(socket.NETLINK_ROUTE, BUFFER_BYTES, (RTNLGRP_IPV4_ROUTE,))
    listening.setblocking(True)
    print("ready", flush=True)
    return listening


def main() -> None:
    """Print events until killed."""
    listening = _listening()
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
    """Print the monotonic clock at the last event of `many` routes through a gateway."""
    listening = _listening()
    wanted = attribute(RTA_GATEWAY, socket.inet_aton(gateway))
    while many > 0:
        many -= listening.recv(DATAGRAM_BYTES).count(wanted)
    print(time.monotonic(), flush=True)


class Listener:
    """This program in a namespace, listening from the moment it is made."""

    def __init__(self, inside: Callable[[list[str]], list[str]], *more: str) -> None:
        """`inside` makes a command one that runs in the namespace; `more` are arguments of this program's.

        Raises BenchError when it does not start.
        """
        command = inside([sys.executable, "-m", "bench.events", *more])
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._lines = self._process.stdout
        if self._lines.readline() != "ready\n":
            raise BenchError("the event listener did not start")


class MovedRoutes(Listener):
    """Waits for the moment when the last of `many` routes goes through a gateway."""

    def __init__(self, inside: Callable[[list[str]], list[str]], gateway: str, many: int) -> None:
        """`inside` makes a command one that runs in the namespace."""
        super().__init__(inside, gateway, str(many))

    def at(self, seconds: float) -> float:
        """The monotonic clock at the last route's event. Raises BenchError when it is not there within `seconds`."""
        try:
            said, _ = self._process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise BenchError(f"the routes did not move within {seconds:g} s") from None
        return float(said)


class Events(Listener):
    """Route events of a namespace, one after the other."""

    def until(self, wanted: set[str]) -> float:
        """The monotonic clock at the last of these events: `+ PREFIX` or `- PREFIX`. Raises BenchError at its end."""
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
        """Stop listening; the events that `until` has not read."""
        self._process.terminate()
        rest = self._lines.read().splitlines()
        self._process.wait()
        return rest


if __name__ == "__main__":
    if len(sys.argv) == 3:
        count(sys.argv[1], int(sys.argv[2]))
    else:
        main()
