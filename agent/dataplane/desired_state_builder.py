"""Facts to desired state, pass after pass, and how far it may be trusted: ARCHITECTURE's invariant 1 is decided here.

Promises: incomplete facts may add to the kernel and never delete from it. The state is `complete` only once the
datastore was read as a whole and while an interface has this node's address, and `bgp_complete` only while BGP has
converged; both are read at the moment of the facts, before the routes are computed. With them goes whether a stored
value cannot be read and was never read (`agent.dataplane.inherited`).
Does not know: BGP, how the datastore is watched, what is in the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from agent.dataplane.cooperative import run_cooperatively
from agent.dataplane.desired.admissible_prefixes import AdmissiblePrefixes
from agent.dataplane.desired.desired_routes import DesiredRoutes
from agent.dataplane.desired.desired_state import DesiredObjects
from agent.dataplane.desired.route_producers import NoRoute, resolving_prefixes
from agent.dataplane.explain.unreached_nodes import unreached_nodes
from agent.dataplane.inputs.facts import Facts, FactSettings
from agent.dataplane.inputs.gather import Gatherer, node_addresses
from agent.dataplane.inputs.next_hops import NextHopResolver
from agent.dataplane.inputs.underlay import Underlay, underlay_of
from agent.dataplane.kinds.states import DesiredState, is_pod
from agent.datastore.state_cache import StateCache
from agent.memo import Memo
from agent.netlink.objects import Address, Link, Route, RouteKey
from agent.trouble import Trouble, TroubleKind
from bgp.rib.multipath import NextHops
from ipam.model import NodeName

MOST_NAMED = 20
"""Refused claims that are named one by one; the rest is counted."""


class BgpRoutes(Protocol):
    """BGP's part of the facts."""

    @property
    def learned(self) -> Mapping[RouteKey, NextHops]:
        """The next hop of each best path, as it is now."""
        ...

    @property
    def gateways(self) -> Mapping[Address, Address]:
        """Peer -> the gateway to it, where it is on no link's subnet."""
        ...

    @property
    def speakers(self) -> frozenset[tuple[Address, int]]:
        """Address and port of each peer; the same object while they are the same."""
        ...

    @property
    def converged(self) -> bool:
        """Whether a route that is not learned may be taken as not existing."""
        ...

    def hops_among(self, key: RouteKey, passes: Callable[[Address], bool]) -> NextHops | None:
        """The next hops of a key's paths that are used if only those count whose next hop passes; None: none is."""
        ...

    def take_changed_routes(self) -> Mapping[RouteKey, NextHops | None] | None:
        """Where the best path changed since the last call, with its next hop; None: anywhere."""
        ...


class DesiredStateBuilder:
    """Builds the desired state of one node again and again; remembers what did not change."""

    def __init__(
        self,
        state: StateCache,
        settings: FactSettings,
        bgp: BgpRoutes,
        next_hops: NextHopResolver,
        in_sync: Callable[[], bool],
        datastore: Callable[[], frozenset[Address]] = frozenset,
        without_bgp: Callable[[], frozenset[NodeName]] = frozenset,
    ) -> None:
        """`in_sync` says whether the datastore was read as a whole, `datastore` which addresses it has.

        `without_bgp` answers the nodes of which BGP says nothing here; the same object while they are the same.
        """
        self._without_bgp = without_bgp
        self._state = state
        self._gatherer = Gatherer(state)
        self._settings = settings
        self._bgp = bgp
        self._next_hops = next_hops
        self._underlay = Memo[Underlay](by_identity=True)
        self._nodes = Memo[frozenset[Address]](by_identity=True)
        self._in_sync = in_sync
        self._datastore = datastore
        self._links: Mapping[str, Link] = {}
        self._earlier: Mapping[RouteKey, str] = {}
        self._admissible = AdmissiblePrefixes()
        self._routes = DesiredRoutes()
        self._touched: Mapping[RouteKey, NextHops | None] | None = {}
        """Where paths changed since routes were computed; None: anywhere."""
        self._lower = Memo[Callable[[RouteKey], bool]](by_identity=True)
        self._taken_lower: Callable[[RouteKey], bool] | None = None
        self._objects = DesiredObjects()

    def facts(self) -> Facts:
        """The facts of this moment, with the links of the last pass."""
        bgp = self._bgp
        found = self._gatherer.gather(
            self._settings,
            self._links,
            bgp.learned,
            bgp.gateways,
            self._underlay_now(),
            self._next_hops.resolutions,
            self._datastore(),
            self._earlier,
            self._without_bgp(),
            bgp.speakers,
        )
        return self._admissible.admit(found)

    def _underlay_now(self) -> Underlay:
        nodes, resolutions = self._state.nodes, self._next_hops.resolutions
        return self._underlay.get(
            lambda: underlay_of(node_addresses(nodes.values()), resolutions), nodes, resolutions
        )

    def node_addresses(self) -> frozenset[Address]:
        """All nodes' addresses on the underlay."""
        nodes = self._state.nodes
        return self._nodes.get(lambda: frozenset(node_addresses(nodes.values())), nodes)

    def inherit(self, routes: Iterable[Route]) -> None:
        """These routes were in the kernel when the agent started."""
        self._earlier = {route.key: str(route.device) for route in routes if is_pod(route)}

    def without(self) -> Iterator[tuple[RouteKey, NoRoute]]:
        """The prefixes that other machines have and to which no route is desired, and why."""
        return self._routes.without()

    def troubles(self) -> Iterator[Trouble]:
        """What the datastore says and this node does not do, and nodes that are not reached.

        Nothing before the pools are known.
        """
        if not self._in_sync():
            return
        facts = self.facts()
        if self._next_hops.is_known:
            yield from unreached_nodes(facts, self._underlay_now().unreached)
        refused = facts.refused
        for one in refused[:MOST_NAMED]:
            about = f"{one.prefix}: " if one.prefix is not None else ""
            loss = (
                "it stays in force, because it was before" if one.stands else "nothing follows from it here"
            )
            yield Trouble(TroubleKind.PREFIX, one.key, f"{about}{one.why}", loss)
        if len(refused) > MOST_NAMED:
            more = f"{len(refused) - MOST_NAMED} more prefixes of the datastore are refused"
            yield Trouble(TroubleKind.PREFIX, "", more)

    def look_at_learned(self) -> None:
        """Resolve next hops by what BGP has learned by now; called before anything is computed of them."""
        changed = self._bgp.take_changed_routes()
        if changed is None or self._touched is None:
            self._touched = None
        else:
            self._touched = (
                {**self._touched, **changed} if self._touched and changed else self._touched or changed
            )
        self._next_hops.learned_changed(changed)

    def _resolve_through_learned(self, facts: Facts) -> None:
        """By which of the learned prefixes next hops may resolve, from the next pass on, if that is another rule."""
        admits = self._lower.get(
            lambda: resolving_prefixes(facts), facts.pools, facts.services, facts.from_peers
        )
        if admits is not self._taken_lower:
            self._taken_lower, hops_among = admits, self._bgp.hops_among

            def learned(key: RouteKey, passes: Callable[[Address], bool]) -> NextHops | None:
                found = hops_among(key, passes)
                return found if found is not None and admits(key) else None

            self._next_hops.set_learned(learned)

    async def build(self, links: Mapping[str, Link]) -> DesiredState:
        """What the kernel should hold with these links, of the facts at the call."""
        self._links = links
        self._next_hops.set_links(links)
        self.look_at_learned()
        facts = self.facts()
        self._resolve_through_learned(facts)
        # Without the parent interface no route to another node follows, though all of them are still right: it has no
        # address for a moment, or the node was given another address that the interface does not have yet.
        complete, converged = self._in_sync() and facts.parent is not None, self._bgp.converged
        lost, lost_pools = self._state.has_lost, self._state.has_lost_pools
        changed, self._touched = self._touched, {}
        routes, touched = await run_cooperatively(self._routes.update(facts, changed))
        return DesiredState(
            self._objects.dataplane(facts, routes),
            complete=complete,
            bgp_complete=converged,
            learned=facts.bgp_nexthops,
            touched=touched,
            lost=lost,
            lost_pools=lost_pools,
            refused=facts.refused,
            above_the_host=frozenset(
                one.version for one in facts.settings.accepted_prefixes if not one.prefixlen
            ),
            above_links=facts.settings.accepted_prefixes,
        )
