"""Which interfaces lead to the other nodes: theirs is the MTU that counts, not that of an address on the loopback.

Promises: the kernel is asked only of nodes that are on no link's subnet, and of a bounded number of them; what cannot
be asked changes nothing. Does not know: what follows from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from agent.dataplane.facts import on_link
from agent.dataplane.kernel import Kernel, KernelError
from agent.dataplane.objects import OUR_TUNNELS, Address, Link

MOST_NODES_ASKED = 32
"""Distant nodes are behind the same few interfaces."""


class Underlay:
    """The present ways, kept up to date by whoever calls `look`."""

    def __init__(self, kernel: Kernel, changed: Callable[[], None]) -> None:
        self._kernel = kernel
        self._changed = changed
        self.ways: frozenset[str] = frozenset()
        """Names of interfaces."""

    async def look(self, nodes: Iterable[Address], links: Mapping[str, Link]) -> None:
        """Find the ways to these nodes; whoever follows hears of a change."""
        ways: set[str] = set()
        distant: list[Address] = []
        for node in nodes:
            link = on_link(links, node)
            if link is not None:
                ways.add(link.name)
            else:
                distant.append(node)
        step = max(1, len(distant) // MOST_NODES_ASKED)
        for node in sorted(distant, key=int)[::step][:MOST_NODES_ASKED]:
            try:
                ways.add((await self._kernel.path_to(node)).device)
            except KernelError:
                continue  # no way there now: nothing is sent that could be too large
        found = frozenset(ways - OUR_TUNNELS - {"lo"})
        if found != self.ways:
            self.ways = found
            self._changed()
