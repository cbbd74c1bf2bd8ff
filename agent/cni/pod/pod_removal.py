"""Removes pods' devices, and answers as soon as they are gone, not when the kernel has cleared up behind them.

Promises: an answer means that no name finds the device any more, here or in its pod: from then on no packet takes it
and the name is free. The kernel tells that within a millisecond, and then waits ten to thirty for its readers (RCU)
before it acknowledges; a thread waits with it. Devices that leave in one moment share a request.
Does not know: whose devices they are.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Sequence

from agent.netlink.netlink_socket import NETLINK_ROUTE, Lost, Refused, RequestSocket, Subscription
from agent.netlink.rtlinks import IFLA_IFNAME
from agent.netlink.rtnetlink import NLM_F_REQUEST, attribute, message

RTM_DELLINK, RTM_SETLINK = 17, 19
RTNLGRP_LINK = 1
IFLA_GROUP = 27
LEAVING_GROUP = 0x746F7274
"""The group of links that are about to be removed: one request removes a whole group. A number nobody else uses."""
MOST_AT_ONCE = 100
"""Devices in one request; with the group's own message they fit one batch."""
MOST_NEWS = 1000
"""Notifications taken in before others have their turn."""

_LINK = struct.Struct("=BxHiII")
_LEAVING = attribute(IFLA_GROUP, struct.pack("=I", LEAVING_GROUP))

Refusals = dict[str, tuple[int, str]]


def exists(name: str) -> bool:
    """Whether a device of this name can be found in the thread's namespace."""
    try:
        return socket.if_nametoindex(name) != 0
    except OSError:
        return False


def by_name(kind: int, name: str, more: bytes = b"", flags: int = 0) -> bytes:
    """A message about one link."""
    named = attribute(IFLA_IFNAME, name.encode() + b"\0")
    return message(kind, NLM_F_REQUEST, _LINK.pack(0, 0, 0, flags, flags) + named + more)


class LinkRemover:
    """Removes devices of the namespace that this process lives in."""

    def __init__(self) -> None:
        self._leaving: list[str] = []
        self._turn: asyncio.Future[Refusals] | None = None
        """Removes all that are leaving, in the next turn of the loop."""
        self._clearing: set[asyncio.Future[Refusals]] = set()
        """Removals that the kernel has not acknowledged yet, though their devices are gone."""

    async def remove(self, name: str) -> None:
        """Remove a device; one that is not there is success. Raises KernelError."""
        if not exists(name):
            return
        if self._turn is None or len(self._leaving) >= MOST_AT_ONCE:
            self._leaving = []
            self._turn = asyncio.ensure_future(self._all(self._leaving))
        self._leaving.append(name)
        # A caller that goes away does not stop the removal: others are in it.
        refused = await asyncio.shield(self._turn)
        code, words = refused.get(name, (0, ""))
        if code:
            raise Refused(code, words, f"removing {name}")

    async def _all(self, leaving: list[str]) -> Refusals:
        await asyncio.sleep(0)
        if self._leaving is leaving:
            self._leaving, self._turn = [], None
        names = tuple(dict.fromkeys(leaving))
        news, requests = Subscription(NETLINK_ROUTE, (RTNLGRP_LINK,)), RequestSocket()
        loop, heard = asyncio.get_running_loop(), asyncio.Event()
        removing = loop.run_in_executor(None, _removed, requests, names)
        removing.add_done_callback(lambda _: heard.set())
        loop.add_reader(news.fileno(), heard.set)
        try:
            while not removing.done() and any(map(exists, names)):
                await heard.wait()
                heard.clear()
                _drain(news)
        finally:
            loop.remove_reader(news.fileno())
            news.close()
        if removing.done():
            return removing.result()
        self._clearing.add(removing)
        removing.add_done_callback(self._cleared)
        return {}

    def _cleared(self, removing: asyncio.Future[Refusals]) -> None:
        self._clearing.discard(removing)
        if not removing.cancelled():
            removing.exception()  # its devices are gone, whatever it says


def _drain(news: Subscription) -> None:
    """Only that there was news counts."""
    try:
        for _ in range(MOST_NEWS):
            if news.read() is None:
                return
    except Lost:
        return


def _removed(requests: RequestSocket, names: Sequence[str]) -> Refusals:
    """In a thread: ask, and wait for the kernel's acknowledgement. Raises KernelError."""
    if len(names) == 1:
        asked = [by_name(RTM_DELLINK, names[0])]
    else:
        asked = [by_name(RTM_SETLINK, name, _LEAVING) for name in names]
        asked.append(message(RTM_DELLINK, NLM_F_REQUEST, _LINK.pack(0, 0, 0, 0, 0) + _LEAVING))
    refused: Refusals = {}
    try:
        answers = requests.at_once(asked)
    finally:
        requests.close()
    for position, (code, words) in answers.items():
        if code not in (errno.ENODEV, errno.ENOENT):
            refused |= dict.fromkeys(names[position : position + 1] or names, (code, words))
    return refused
