"""Which interfaces lead to the other nodes, and which router to those behind one.

Theirs is the MTU that counts, not that of an address on the loopback; and a route without encapsulation to a node on
another subnet goes to the router on the way there, as the kernel has it (BIRD's recursive gateway).

Promises: the kernel is asked only of nodes that are on no link's subnet, and of a bounded number of them; what cannot
be asked changes nothing else. Does not know: what follows from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from agent.dataplane.inputs.facts import on_link
from agent.dataplane.kernel.protocol import Kernel, PathToHost
from agent.netlink.kernel_errors import KernelError
from agent.netlink.objects import OUR_TUNNELS, Address, Link

MOST_NODES_ASKED = 1024
"""More distant nodes than these are asked for by sample; the others are reached with encapsulation alone."""


class UnderlayRoutes:
    """The present ways, kept up to date by whoever calls `look`."""

    def __init__(self, kernel: Kernel, changed: Callable[[], None]) -> None:
        self._kernel = kernel
        self._changed = changed
        self.links: frozenset[str] = frozenset()
        """Names of interfaces."""
        self.gateways: Mapping[Address, Address] = {}
        """Distant node -> the router to it."""
        self._known: dict[Address, PathToHost] = {}

    async def update(self, nodes: Iterable[Address], links: Mapping[str, Link], *, anew: bool = True) -> None:
        """Find the ways to these nodes; whoever follows hears of a change. Not `anew`: what is known holds still."""
        ways: set[str] = set()
        distant: list[Address] = []
        for node in nodes:
            link = on_link(links, node)
            if link is not None:
                ways.add(link.name)
            else:
                distant.append(node)
        step = max(1, len(distant) // MOST_NODES_ASKED)
        known: dict[Address, PathToHost] = {}
        for node in sorted(distant, key=int)[::step][:MOST_NODES_ASKED]:
            path = self._known.get(node) if not anew else None
            try:
                known[node] = path or await self._kernel.path_to(node)
            except KernelError:
                continue  # no way there now: nothing is sent that could be too large
        self._known = known
        found = frozenset((ways | {path.device for path in known.values()}) - OUR_TUNNELS - {"lo"})
        routers = {
            node: path.gateway
            for node, path in known.items()
            if path.gateway is not None and path.device not in OUR_TUNNELS
        }
        if (found, routers) != (self.links, self.gateways):
            self.links, self.gateways = found, routers
            self._changed()
