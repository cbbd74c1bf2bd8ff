"""Deletes the tracked connections of addresses that left, beside the passes: nobody waits for it.

Strategy. For all that leave within a moment the table is searched once: on a machine with room for 262,144 connections
one search takes 10 ms of the kernel, however few there are.
Promises: an address has no old connections before a route leads to it again (`before_use`); a failure is reported, not
repeated, because entries end by themselves. Due are at most as many addresses as pods left within the pause.
Does not know: why an address left, how connections are found.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from ipaddress import ip_address
from typing import Any

from agent.dataplane.kernel.protocol import Kernel
from agent.dataplane.report import Counters
from agent.netlink.kernel_errors import KernelError
from agent.netlink.objects import Address, RouteKey

PAUSE_SECONDS = 0.25
"""Between an address's departure and the search: longer than a runtime takes to remove a pod."""
FEATURE = "deleting connections"


class ConntrackCleanup:
    """The addresses whose connections are due for deletion, and the task that deletes them."""

    def __init__(
        self, kernel: Kernel, counters: Counters, log: Any, pause_seconds: float = PAUSE_SECONDS
    ) -> None:
        self._kernel = kernel
        self._counters = counters
        self._log = log
        self._pause_seconds = pause_seconds
        self._due: set[Address] = set()
        self._in_search: set[Address] = set()
        self._any_due = asyncio.Event()
        self._one_search = asyncio.Lock()
        """One search at a time, so that whoever needs a clean address waits for the one that is under way."""

    def schedule(self, left: Iterable[RouteKey]) -> None:
        """Addresses left: delete their connections soon."""
        self._due.update(_addresses(left))
        if self._due:
            self._any_due.set()

    async def clean(self, left: Iterable[RouteKey]) -> None:
        """Addresses moved: delete their connections at once."""
        self._due.update(_addresses(left))
        await self._clean_due()

    async def before_use(self, wanted: Iterable[RouteKey]) -> None:
        """Routes are about to lead to these: what is due for deletion of their former pods goes first."""
        unclean = self._due | self._in_search
        if unclean and not unclean.isdisjoint(_addresses(wanted)):
            await self._clean_due()

    async def run(self) -> None:
        """Delete what is due, until cancelled."""
        while True:
            await self._any_due.wait()
            await asyncio.sleep(self._pause_seconds)
            await self._clean_due()

    async def _clean_due(self) -> None:
        async with self._one_search:
            self._any_due.clear()
            addresses, self._due = self._due, set()
            if addresses:
                self._in_search = addresses
                try:
                    await self._search(addresses)
                finally:
                    self._in_search = set()

    async def _search(self, addresses: Collection[Address]) -> None:
        try:
            count = await self._kernel.delete_connections(addresses)
        except KernelError as error:
            if self._counters.not_in_force.get(FEATURE) != str(error):
                self._log.warning("connections.left", addresses=len(addresses), why=str(error))
            self._counters.not_in_force[FEATURE] = str(error)
        else:
            self._counters.not_in_force.pop(FEATURE, None)
            self._log.info("connections.deleted", addresses=len(addresses), count=count)


def _addresses(keys: Iterable[RouteKey]) -> set[Address]:
    return {ip_address(key.octets) for key in keys}
