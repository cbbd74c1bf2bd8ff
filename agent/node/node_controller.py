"""The node's control loop: this node's own resource, when its inputs change.

Promises: nothing is written before the datastore was read as a whole, and while it is locked; a step whose inputs are
those of the last good one writes nothing, but for one every RESYNC_SECONDS; one that failed is tried again every
RETRY_SECONDS.
Does not know: what is in the resource.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress

from agent.clock import Clock
from agent.dataplane.kernel.calico_names import OUR_TUNNELS, WORKLOAD_PREFIX
from agent.dataplane.kernel.dataplane_objects import host_links
from agent.dataplane.trigger import Trigger
from agent.datastore.resources.resource_types import PLURALS
from agent.datastore.state_cache import StateCache
from agent.netlink.kernel_errors import KernelError
from agent.netlink.objects import Link
from agent.node.node_resource import NodeResource
from ipam.failures import DatastoreLocked, IpamError
from ipam.keys import resource_key
from ipam.model import NodeName

RESYNC_SECONDS = 60.0
"""Everything is compared again this often, whatever happened."""
RETRY_SECONDS = 2.0
CLAIM_PAUSE_SECONDS = 0.5
"""Between two looks for an answer, while it is asked who has the record."""


class NodeController:
    """Keeps `NodeResource` right; a shell."""

    def __init__(
        self,
        resource: NodeResource,
        state: StateCache,
        may_write: Callable[[], bool],
        clock: Clock,
    ) -> None:
        """`may_write` says whether the datastore was read as a whole and is not locked."""
        self._resource = resource
        self._state = state
        self._may_write = may_write
        self._clock = clock
        self._trigger = Trigger()
        self._all_links: Mapping[str, Link] = {}
        self._links: Mapping[str, Link] = {}
        """All links but those of pods."""
        self._done: tuple[object, ...] | None = None
        """The inputs of the last step that left the resource right."""
        self._due_at = 0.0

    def trigger(self) -> None:
        """The datastore changed: one more step, soon."""
        self._trigger.fire()

    def look_again(self) -> None:
        """What others say of this node has changed: the resource is compared, soon."""
        self._done = None
        self._trigger.fire()

    def set_links(self, links: Mapping[str, Link]) -> None:
        """The machine's links are these; one more step if a link changed that is not a pod's."""
        if links is self._all_links:
            return
        self._all_links = links
        own = host_links(links)
        if own is not self._links and own != self._links:
            self._links = own
            self._trigger.fire()

    async def run(self) -> None:
        """Take steps until cancelled."""
        while True:
            pause = CLAIM_PAUSE_SECONDS if self._is_asking() else RETRY_SECONDS
            await self._trigger.wait(RESYNC_SECONDS if self._done is not None else pause)
            await self.step()

    async def step(self) -> None:
        """Compare the resource if its inputs changed or it is time."""
        inputs = node_inputs(self._state, self._links)
        now = self._clock.now()
        is_due = now >= self._due_at
        if self._is_asking():
            with suppress(IpamError):  # asked again soon
                await self._resource.incumbency.step()
        if not self._may_write() or (inputs == self._done and not is_due):
            return
        self._due_at = now + RESYNC_SECONDS
        self._done = None  # whatever happens now, it is not done before it has ended well
        try:
            await self._resource.reconcile()
        except DatastoreLocked:  # said by the status; the unlocking triggers the next step
            return
        except (IpamError, KernelError) as error:
            self._resource.trouble = str(error)
        is_right = self._resource.trouble is None and not self._resource.is_changing
        self._done = inputs if is_right else None

    def _is_asking(self) -> bool:
        """Whether another machine, or this one before it booted, has the record."""
        own = self._state.own_node
        return own is not None and self._resource.incumbency.is_asking(own.metadata.annotations)


def node_inputs(state: StateCache, links: Mapping[str, Link]) -> tuple[object, ...]:
    """What the resource depends on; while it stays the same there is no need for another comparison."""
    addresses = tuple(
        (link.name, link.up, link.addresses)
        for link in links.values()
        if link.name not in OUR_TUNNELS and not link.name.startswith(WORKLOAD_PREFIX)
    )
    tunnels = tuple(sorted(link.name for link in links.values() if link.name in OUR_TUNNELS and link.up))
    own_key = resource_key(PLURALS["Node"], state.node)
    is_lost = own_key in state.missing  # an older datastore has forgotten it
    return (
        state.pools,
        state.own_node,
        state.unreadable.why(own_key),
        state.has_lost_pools,
        is_lost,
        addresses,
        tunnels,
        _others_at_our_address(state),
        state.tunnel_handles,  # somebody may have released a tunnel's address
    )


def _others_at_our_address(state: StateCache) -> tuple[NodeName, ...]:
    """The other nodes that say that they have an address of this node's."""
    me = state.own_node
    own = [found.ip for version in (4, 6) if me is not None and (found := me.underlay(version)) is not None]
    if not own:
        return ()
    others = ((name, node) for name, node in state.nodes.items() if name != state.node)
    return tuple(
        sorted(
            name
            for name, node in others
            for version in (4, 6)
            if (taken := node.underlay(version)) is not None and taken.ip in own
        )
    )
