"""What is known of the links: those that something was heard of are read again, one by one, or all of them.

Promises: a pod that comes or goes costs the reading of its link, however many there are; a link that is as it was known
stays the same object, and so does the mapping when nothing differs; what could not be read stays in doubt.
Does not know: what a link is for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from agent.dataplane.kernel.protocol import Kernel, LinkChanged
from agent.netlink.kernel_errors import KernelError
from agent.netlink.objects import Link

MOST_ONE_BY_ONE = 16
"""More links in doubt than these are read with all others: one dump costs less."""


class LinkCache:
    """Those of one namespace."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.links: Mapping[str, Link] = {}
        """By name, as last read."""
        self._all = True
        self._doubted: set[str] = set()

    def doubt(self, name: str, index: int | None = None) -> None:
        """Something happened to the link of this name, and to the one of this index, if it had another name before.

        Of a name that is given up nothing is said: the kernel tells of a link that is renamed by its new one.
        """
        self._doubted.add(name)
        if index is not None:
            self._doubted.update(known for known, link in self.links.items() if link.index == index)

    def doubt_all(self) -> None:
        """Something may have happened to any."""
        self._all = True

    def agrees(self, told: LinkChanged) -> bool:
        """Whether what was told of a link is what is known of it: a carrier that came, a counter, an alias."""
        known = self.links.get(told.name)
        if known is None or told.lost or told.seen is None or self._all or told.name in self._doubted:
            return False
        return replace(known, addresses=()) == told.seen

    async def read(self) -> frozenset[str] | None:
        """Read what is in doubt; the names of those that are not as they were, None: any may be. Raises KernelError."""
        # Taken off before reading: what is heard meanwhile is in doubt again.
        every, doubted = self._all or len(self._doubted) > MOST_ONE_BY_ONE, self._doubted
        self._all, self._doubted = False, set()
        try:
            if every:
                self.links = await self._kernel.links()
                return None
            return self._adopt({name: await self._kernel.link(name) for name in sorted(doubted)})
        except (KernelError, asyncio.CancelledError):
            self._all = self._all or every
            self._doubted |= doubted
            raise

    def _adopt(self, found: Mapping[str, Link | None]) -> frozenset[str]:
        different = {name: link for name, link in found.items() if self.links.get(name) != link}
        if different:
            kept = {name: link for name, link in self.links.items() if name not in different}
            self.links = kept | {name: link for name, link in different.items() if link is not None}
        return frozenset(different)
