"""A node on a kernel that learns prefixes with next hops: everything between BGP's best paths and the kernel's routes.

Its pods are in 192.168.0.0/16 and fd10::/64, without encapsulation. What it learns lies outside of these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import ip_address, ip_network
from typing import Any

from agent.dataplane.desired_state_builder import DesiredStateBuilder
from agent.dataplane.inputs.facts import FactSettings
from agent.dataplane.kernel.linux import NetlinkKernel
from agent.dataplane.kinds.states import DesiredState
from agent.datastore.resources.resource_types import Metadata, Node, NodeBGPSpec, NodeSpec, encode
from agent.datastore.state_cache import StateCache
from agent.netlink.objects import Address, Link, RouteKey
from ipam.etcd.store import Versioned
from ipam.keys import resource_key
from ipam.model import NodeName
from tests.scenes.dataplane.reconcilers import Bench

ME = NodeName("node1")


class _Bgp:
    """What was learned."""

    def __init__(self) -> None:
        self.learned: dict[RouteKey, Address] = {}
        self.gateways: dict[Address, Address] = {}
        self.speakers: frozenset[tuple[Address, int]] = frozenset()
        self.converged = True
        self._changed: dict[RouteKey, Address | None] | None = None

    def hops_among(self, key: RouteKey, passes: Callable[[Address], bool]) -> Address | None:
        found = self.learned.get(key)
        return found if found is not None and passes(found) else None

    def take_changed_routes(self) -> Mapping[RouteKey, Address | None] | None:
        changed, self._changed = self._changed, {}
        return changed

    def learn(self, learned: dict[RouteKey, Address]) -> None:
        self.learned, self._changed = learned, None


class LearningNode(Bench):
    """See the module."""

    def __init__(self, kernel: NetlinkKernel, own: str, own6: str, **options: Any) -> None:
        super().__init__(kernel, **options)
        self.kernel, self.bgp = kernel, _Bgp()
        state = StateCache(ME)
        spec = NodeSpec(bgp=NodeBGPSpec(ipv4_address=own, ipv6_address=own6))
        key = resource_key("nodes", ME)
        state.apply(key, Versioned(key, encode(Node(metadata=Metadata(name=ME), spec=spec)), 1))
        self.builder = DesiredStateBuilder(
            state, FactSettings(), self.bgp, self.reconciler.next_hops, lambda: True
        )

    async def _compute_desired(self, links: Mapping[str, Link]) -> DesiredState:
        return await self.builder.build(links)

    def learn(self, routes: Mapping[str, str]) -> None:
        """Prefix -> next hop."""
        hops = {hop: ip_address(hop) for hop in routes.values()}
        found = {RouteKey(ip_network(prefix)): hops[hop] for prefix, hop in routes.items()}
        self.bgp.learn(found)
        self.reconciler.next_hops.track(set(found.values()))
        self.reconciler.trigger()
