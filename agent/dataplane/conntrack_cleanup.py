"""Forgets the tracked connections of addresses that left, beside the passes: nobody waits for it.

Strategy. What leaves within a moment is forgotten with one look at the table: on a machine with room for 262,144
connections one look takes 10 ms of the kernel, however few there are.
Promises: an address is clean before a route leads to it again (`before_use`); a failure is reported, not repeated,
because entries end by themselves. Waiting are at most as many addresses as pods left within the pause.
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
"""Between an address's departure and the look at the table: longer than a runtime takes to remove a pod."""
FEATURE = "forgetting connections"


class ConntrackCleanup:
    """One per reconciler."""

    def __init__(
        self, kernel: Kernel, tally: Counters, log: Any, pause_seconds: float = PAUSE_SECONDS
    ) -> None:
        self._kernel = kernel
        self._tally = tally
        self._log = log
        self._pause_seconds = pause_seconds
        self._waiting: set[Address] = set()
        self._looked_for: set[Address] = set()
        self._some = asyncio.Event()
        self._turn = asyncio.Lock()
        """One look at a time, so that whoever needs a clean address waits for the look that is under way."""

    def later(self, left: Iterable[RouteKey]) -> None:
        """Addresses left: forget their connections soon."""
        self._waiting.update(_addresses(left))
        if self._waiting:
            self._some.set()

    async def now(self, left: Iterable[RouteKey]) -> None:
        """Addresses moved: forget their connections at once."""
        self._waiting.update(_addresses(left))
        await self._forget()

    async def before_use(self, wanted: Iterable[RouteKey]) -> None:
        """Routes are about to lead to these: what is to be forgotten of their former pods goes first."""
        unclean = self._waiting | self._looked_for
        if unclean and not unclean.isdisjoint(_addresses(wanted)):
            await self._forget()

    async def run(self) -> None:
        """Forget what waits, until cancelled."""
        while True:
            await self._some.wait()
            await asyncio.sleep(self._pause_seconds)
            await self._forget()

    async def _forget(self) -> None:
        async with self._turn:
            self._some.clear()
            addresses, self._waiting = self._waiting, set()
            if addresses:
                self._looked_for = addresses
                try:
                    await self._look(addresses)
                finally:
                    self._looked_for = set()

    async def _look(self, addresses: Collection[Address]) -> None:
        try:
            count = await self._kernel.forget_connections(addresses)
        except KernelError as error:
            if self._tally.not_in_force.get(FEATURE) != str(error):
                self._log.warning("connections.kept", addresses=len(addresses), why=str(error))
            self._tally.not_in_force[FEATURE] = str(error)
        else:
            self._tally.not_in_force.pop(FEATURE, None)
            self._log.info("connections.forgotten", addresses=len(addresses), count=count)


def _addresses(keys: Iterable[RouteKey]) -> set[Address]:
    return {ip_address(key.octets) for key in keys}
