"""Removes pods' devices, and answers as soon as they are gone, not when the kernel has cleared up behind them.

Promises: an answer means that no name finds the device any more, here or in its pod: from then on no packet takes it
and the name is free. The kernel reports that within a millisecond, and then waits ten to thirty for its readers (RCU)
before it acknowledges; a thread waits with it. Devices that leave in one moment share a request.
Does not know: whose devices they are.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Sequence

from agent.netlink.netlink_socket import NETLINK_ROUTE, Lost, NlmsgError, RequestSocket, Subscription
from agent.netlink.rtlinks import IFLA_GROUP, IFLA_IFNAME, link_change, text_attribute
from agent.netlink.rtnetlink import RTM_DELLINK, RTM_SETLINK, RTNLGRP_LINK, attribute

REMOVAL_GROUP = 0x746F7274
"""The group of links that are about to be removed: one request removes a whole group. A number nobody else uses."""
MOST_AT_ONCE = 100
"""Devices in one request; with the group's own message they fit one batch."""
MOST_NOTIFICATIONS = 1000
"""Notifications that are taken in before other tasks run."""

_IN_GROUP = attribute(IFLA_GROUP, struct.pack("=I", REMOVAL_GROUP))

Refusals = dict[str, tuple[int, str]]
"""Device -> errno and the kernel's words."""


def index_of(name: str) -> int:
    """A device's index in the thread's namespace; 0 when there is no device of this name."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0


class LinkRemover:
    """Removes devices of the namespace that this process lives in."""

    def __init__(self) -> None:
        self._leaving: list[str] = []
        """Devices of the removal that has not started yet."""
        self._next: asyncio.Future[Refusals] | None = None
        """The removal that starts in the next pass of the event loop, with all of `_leaving`."""
        self._clearing: set[asyncio.Future[Refusals]] = set()
        """Removals that the kernel has not acknowledged yet, though their devices are gone."""

    async def remove(self, name: str) -> None:
        """Remove a device; one that is not there is success. Raises KernelError."""
        if not index_of(name):
            return
        if self._next is None or len(self._leaving) >= MOST_AT_ONCE:
            self._leaving = []
            self._next = asyncio.ensure_future(self._all(self._leaving))
        self._leaving.append(name)
        # A caller that goes away does not stop the removal: others are in it.
        refused = await asyncio.shield(self._next)
        code, words = refused.get(name, (0, ""))
        if code:
            raise NlmsgError(code, words, f"removing {name}")

    async def _all(self, leaving: list[str]) -> Refusals:
        await asyncio.sleep(0)
        if self._leaving is leaving:
            self._leaving, self._next = [], None
        names = tuple(dict.fromkeys(leaving))
        events, requests = Subscription(NETLINK_ROUTE, (RTNLGRP_LINK,)), RequestSocket()
        loop, woken = asyncio.get_running_loop(), asyncio.Event()
        removing = loop.run_in_executor(None, _removed, requests, names)
        removing.add_done_callback(lambda _: woken.set())
        loop.add_reader(events.fileno(), woken.set)
        try:
            while not removing.done() and any(map(index_of, names)):
                await woken.wait()
                woken.clear()
                _drain(events)
        finally:
            loop.remove_reader(events.fileno())
            events.close()
        if removing.done():
            return removing.result()
        self._clearing.add(removing)
        removing.add_done_callback(self._cleared)
        return {}

    def _cleared(self, removing: asyncio.Future[Refusals]) -> None:
        self._clearing.discard(removing)
        if not removing.cancelled():
            removing.exception()  # its devices are gone, whatever it says


def _drain(events: Subscription) -> None:
    """Take in the notifications: only that there were some counts."""
    try:
        for _ in range(MOST_NOTIFICATIONS):
            if events.read() is None:
                return
    except Lost:
        return


def _removed(requests: RequestSocket, names: Sequence[str]) -> Refusals:
    """In a thread: ask, and wait for the kernel's acknowledgement. Raises KernelError."""
    named = [text_attribute(IFLA_IFNAME, name) for name in names]
    if len(names) == 1:
        messages = [link_change(RTM_DELLINK, named[0])]
    else:
        messages = [link_change(RTM_SETLINK, name + _IN_GROUP) for name in named]
        messages.append(link_change(RTM_DELLINK, _IN_GROUP))
    refused: Refusals = {}
    try:
        answers = requests.at_once(messages)
    finally:
        requests.close()
    for position, (code, words) in answers.items():
        if code not in (errno.ENODEV, errno.ENOENT):
            refused |= dict.fromkeys(names[position : position + 1] or names, (code, words))
    return refused
