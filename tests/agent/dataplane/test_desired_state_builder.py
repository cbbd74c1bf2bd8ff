"""How far the desired state may be trusted: nothing of ours goes while the facts behind it are incomplete."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import ip_address, ip_network

from agent.dataplane.desired_state_builder import DesiredStateBuilder
from agent.dataplane.inputs.facts import FactSettings
from agent.dataplane.inputs.next_hops import NextHopResolver
from agent.dataplane.kernel.ownership import Ownership
from agent.dataplane.kinds.states import DesiredState
from agent.datastore.resources.resource_types import Metadata, Node, NodeBGPSpec, NodeSpec, encode
from agent.datastore.state_cache import StateCache
from agent.netlink.objects import Address, Link, RouteKey
from ipam.etcd.store import Versioned
from ipam.keys import resource_key
from ipam.model import NodeName
from tests.fakes.kernel import FakeKernel

ME = NodeName("node1")
LEARNED = RouteKey(ip_network("10.1.2.0/26"))
NEAR = ip_address("172.26.0.12")


class Bgp:
    """One learned route."""

    def __init__(self) -> None:
        self.learned: Mapping[RouteKey, Address] = {LEARNED: NEAR}
        self.gateways: Mapping[Address, Address] = {}
        self.speakers: frozenset[tuple[Address, int]] = frozenset()
        self.converged = False

    def hops_among(self, key: RouteKey, passes: Callable[[Address], bool]) -> Address | None:
        found = self.learned.get(key)
        return found if found is not None and passes(found) else None

    def take_changed_routes(self) -> None:
        """Anywhere."""


class World:
    """A builder of a node with the address 172.26.0.11."""

    def __init__(self) -> None:
        self.in_sync, self.bgp, self.kernel = False, Bgp(), FakeKernel()
        state = StateCache(ME)
        node = Node(metadata=Metadata(name=ME), spec=NodeSpec(bgp=NodeBGPSpec(ipv4_address="172.26.0.11/20")))
        key = resource_key("nodes", ME)
        state.apply(key, Versioned(key, encode(node), 1))
        next_hops = NextHopResolver(Ownership())
        self.builder = DesiredStateBuilder(state, FactSettings(), self.bgp, next_hops, lambda: self.in_sync)

    async def built(self, *addresses: str) -> DesiredState:
        """The state with one interface that has these addresses."""
        kernel = FakeKernel()
        kernel.add_link("eth0", *addresses)
        links: Mapping[str, Link] = kernel.link_table
        return await self.builder.build(links)


async def test_before_the_datastore_was_read_as_a_whole_the_state_is_incomplete() -> None:
    world = World()
    assert not (await world.built("172.26.0.11/20")).complete
    world.in_sync = True
    assert (await world.built("172.26.0.11/20")).complete


async def test_while_no_interface_bears_the_nodes_address_the_state_is_incomplete() -> None:
    world = World()
    world.in_sync = True
    assert not (await world.built()).complete
    assert not (await world.built("172.26.0.99/20")).complete
    assert (await world.built("172.26.0.11/20")).complete


async def test_before_bgp_has_converged_a_route_that_is_not_learned_may_exist() -> None:
    world = World()
    assert not (await world.built("172.26.0.11/20")).bgp_complete
    world.bgp.converged = True
    assert (await world.built("172.26.0.11/20")).bgp_complete


async def test_an_incomplete_state_has_the_routes_that_are_known() -> None:
    built = await World().built("172.26.0.11/20")
    assert built.dataplane.routes[LEARNED].gateway == NEAR
    assert built.learned is not None
    assert LEARNED in built.learned
