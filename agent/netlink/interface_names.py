"""The present names and numbers of interfaces, asked one at a time (netdevice(7)): far cheaper than a dump.

Promises: never raises. Does not know: what an interface is for.
"""

from __future__ import annotations

import socket


def device_index(name: str) -> int | None:
    """The interface's present index; None when there is none."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None


def device_name(index: int) -> str:
    """The interface's present name; `#7` when it has gone."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"#{index}"
