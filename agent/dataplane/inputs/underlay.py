"""Which interfaces lead to the other nodes, and which gateway to those behind one.

Their MTU is the one that counts, not that of an address on the loopback; and a route without encapsulation to a node on
another subnet goes to the gateway of the kernel's route there (BIRD's recursive gateway).

Promises: the kernel is asked only of nodes that are on no link's subnet, and of a bounded number of them; a node that
cannot be asked for changes nothing of the others. Does not know: what follows from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from agent.dataplane.inputs.facts import on_link
from agent.dataplane.kernel.calico_names import OUR_TUNNELS
from agent.dataplane.kernel.protocol import Kernel, PathToHost
from agent.netlink.kernel_errors import KernelError
from agent.netlink.objects import Address, Link

MOST_NODES_ASKED = 1024
"""More distant nodes than these are asked for by sample; the others are reached with encapsulation alone."""


class UnderlayRoutes:
    """The kernel's paths to the other nodes, as of the last `update`; a shell."""

    def __init__(self, kernel: Kernel, changed: Callable[[], None]) -> None:
        self._kernel = kernel
        self._changed = changed
        self.links: frozenset[str] = frozenset()
        """Names of the interfaces that lead to other nodes."""
        self.gateways: Mapping[Address, Address] = {}
        """Distant node -> the gateway to it."""
        self._known: dict[Address, PathToHost] = {}

    async def update(self, nodes: Iterable[Address], links: Mapping[str, Link], *, anew: bool = True) -> None:
        """Find the paths to these nodes and report a change. Not `anew`: paths that are known are not asked for."""
        found: set[str] = set()
        distant: list[Address] = []
        for node in nodes:
            link = on_link(links, node)
            if link is not None:
                found.add(link.name)
            else:
                distant.append(node)
        step = max(1, len(distant) // MOST_NODES_ASKED)
        known: dict[Address, PathToHost] = {}
        for node in sorted(distant, key=int)[::step][:MOST_NODES_ASKED]:
            path = self._known.get(node) if not anew else None
            try:
                known[node] = path or await self._kernel.path_to(node)
            except KernelError:
                continue  # no path there now: nothing is sent that could be too large
        self._known = known
        names = frozenset((found | {path.device for path in known.values()}) - OUR_TUNNELS - {"lo"})
        gateways = {
            node: path.gateway
            for node, path in known.items()
            if path.gateway is not None and path.device not in OUR_TUNNELS
        }
        if (names, gateways) != (self.links, self.gateways):
            self.links, self.gateways = names, gateways
            self._changed()
