"""What is known of the links: those that an event was about are read again, one by one, or all of them.

Promises: a pod that comes or goes costs the reading of its link, however many there are; a link that is as it was known
stays the same object, and so does the mapping when nothing differs; what could not be read stays invalid.
Does not know: what a link is for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from agent.dataplane.kernel.dataplane_objects import Links
from agent.dataplane.kernel.protocol import Kernel, LinkChanged
from agent.netlink.kernel_errors import KernelError
from agent.netlink.objects import Link

MOST_REMEMBERED = 8192
"""Names of links that have gone, with their indexes."""
MOST_ONE_BY_ONE = 16
"""More invalid links than these are read with all others: one dump costs less."""


class LinkCache:
    """The links of one namespace."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.links = Links()
        """By name, as last read."""
        self._all_invalid = True
        self._invalid: set[str] = set()
        self._indexes: dict[str, int] = {}
        """The index that each name had last, those of links that have gone included."""

    def now_named(self, name: str) -> str | None:
        """The name that a link has now that was last seen by this one; None: it is gone, or has it still."""
        index = self._indexes.get(name)
        if index is None or name in self.links:
            return None
        return next((other for other, link in self.links.items() if link.index == index), None)

    def invalidate(self, name: str, index: int | None = None) -> None:
        """Something happened to the link of this name, and to the one of this index, if it had another name before.

        The kernel reports a link that is renamed by its new name, and says nothing of the name that it gives up.
        """
        self._invalid.add(name)
        if index is not None:
            self._invalid.update(known for known, link in self.links.items() if link.index == index)

    def invalidate_all(self) -> None:
        """Something may have happened to any."""
        self._all_invalid = True

    def matches(self, event: LinkChanged, *, whatever_carrier: bool = False) -> bool:
        """Whether an event says of a link what is known of it, but for its carrier if that is all the same."""
        known = self.links.get(event.name)
        if known is None or self._all_invalid or event.name in self._invalid:
            return False
        if event.gone or event.seen is None:
            return False
        carrier = event.seen.carrier if whatever_carrier else known.carrier
        return replace(known, addresses=(), flagged=(), carrier=carrier) == event.seen

    async def read(self) -> frozenset[str] | None:
        """Read what is invalid; the names of those that are not as they were, None: any may be. Raises KernelError."""
        # Taken off before reading: what an event is about meanwhile is invalid again.
        every, invalid = self._all_invalid or len(self._invalid) > MOST_ONE_BY_ONE, self._invalid
        self._all_invalid, self._invalid = False, set()
        try:
            if every:
                before, self.links = self.links, Links(await self._kernel.links())
                if self.links.host == before.host:
                    self.links.host = before.host
                self._remember(self.links)
                return None
            return self._adopt({name: await self._kernel.link(name) for name in sorted(invalid)})
        except (KernelError, asyncio.CancelledError):
            self._all_invalid = self._all_invalid or every
            self._invalid |= invalid
            raise

    def _adopt(self, found: Mapping[str, Link | None]) -> frozenset[str]:
        different = {name: link for name, link in found.items() if self.links.get(name) != link}
        if different:
            self.links = self.links.with_changes(different)
            self._remember({name: self.links[name] for name in different if name in self.links})
        return frozenset(different)

    def _remember(self, links: Mapping[str, Link]) -> None:
        self._indexes.update((name, link.index) for name, link in links.items())
        if len(self._indexes) > MOST_REMEMBERED + len(self.links):
            self._indexes = {name: link.index for name, link in self.links.items()}
