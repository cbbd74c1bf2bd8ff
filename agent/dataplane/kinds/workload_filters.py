"""The workload filter: our nftables table between workloads and nodes, as one object whose sets follow the facts.

Strategy. The table is made once, when all that goes into its sets is known, and then only elements come and go: one
for each address of a workload. Before the facts are complete they only come. An address that is wanted no more stays
while a route to it leads over its interface: a workload that is reachable may answer. A tunnel's element stays with
its device, which stays longer than a pool asks for it (decision 22).
Promises: a workload that is attached is never cut off by facts that cannot be read; the table is never removed, but by
the setting. Does not know: what the rules are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

from agent.dataplane.desired.desired_filter import tunnel_element
from agent.dataplane.kernel.dataplane_objects import FilterElement, FilterSet, Kind, WorkloadFilter
from agent.dataplane.kernel.filter_table import NAME as TABLE
from agent.dataplane.kernel.protocol import Kernel
from agent.dataplane.kinds.object_kind import Delta, SingleKind
from agent.dataplane.kinds.states import Comparison, DesiredState
from agent.netlink.objects import RouteKey

SETTLING_SECONDS = 1.0
"""An element that waits for its route or its tunnel to go is looked at again after so long."""
REASONS = {
    "create": "workloads send from their own addresses alone, and none as a node",
    "replace": "workloads, nodes or tunnels came or went, or somebody altered it",
    "delete": "workloads.filter is off",
}


class WorkloadFilters(SingleKind[str, WorkloadFilter]):
    """One object or none, by the name of the table."""

    kind = Kind.FILTER

    def __init__(self, kernel: Kernel, log: Any) -> None:
        super().__init__(kernel, log)
        self._is_settled = True

    def feature(self, value: WorkloadFilter) -> str:
        """The filter as a whole."""
        return "workload filter"

    async def read(self, desired: DesiredState) -> Mapping[str, WorkloadFilter]:
        """What the table holds; parts that are as desired are the desired ones, so that to compare them is free."""
        found, wanted = await self._kernel.workload_filter(), desired.dataplane.workload_filter
        if found is None:
            return {}
        if wanted is not None:
            workloads = wanted.workloads if wanted.workloads == found.workloads else found.workloads
            cluster = wanted.cluster if wanted.cluster == found.cluster else found.cluster
            found = replace(found, workloads=workloads, cluster=cluster)
        return {TABLE: found}

    async def diff(self, given: Comparison) -> Delta[str, WorkloadFilter]:
        """The table to make, change or remove."""
        wanted, found = given.desired.dataplane.workload_filter, given.actual.of(self.kind).get(TABLE)
        self._is_settled = True
        if wanted is None or found is None:
            if not given.desired.complete:
                return Delta({}, {}, {})
            create = {TABLE: wanted} if wanted is not None else {}
            return Delta(create, {}, {TABLE: found} if found is not None else {})
        if not given.desired.complete and not found.is_intact:
            return Delta({}, {}, {})  # its sets may have been emptied as well, and are not known in full yet
        stays = WorkloadFilter(
            _extended(wanted.workloads, found.workloads, lambda one: _is_workloads(one, given)),
            _extended(wanted.cluster, found.cluster, lambda one: _is_clusters(one, given)),
        )
        self._is_settled = not given.desired.complete or given.desired.lost or stays == wanted
        return Delta({}, {TABLE: stays} if stays != found else {}, {})

    def next_at(self, now: float) -> float | None:
        """Soon, while an element waits for something to go."""
        return None if self._is_settled else now + SETTLING_SECONDS

    async def put_one(self, value: WorkloadFilter, was: WorkloadFilter | None) -> None:
        """Make the table, or change what is in its sets."""
        await self._kernel.put_workload_filter(value, was)
        if was is None or not was.is_intact:
            self._log.info("filter.made", table=TABLE, holds=str(value))

    async def remove_one(self, value: WorkloadFilter) -> None:
        """Remove the table."""
        await self._kernel.put_workload_filter(None, value)
        self._log.warning("filter.removed", table=TABLE)

    def count(self, objects: Mapping[str, WorkloadFilter]) -> int:
        """The elements in its sets."""
        return sum(len(one.workloads) + len(one.cluster) for one in objects.values())

    def text(self, value: WorkloadFilter) -> str:
        """The table and how much it holds."""
        return f"table {TABLE}: {value}"

    def reason(
        self,
        verb: str,
        key: str,
        delta: Delta[str, WorkloadFilter],
        why: Callable[[RouteKey], str],
    ) -> str:
        """What the filter is for."""
        return REASONS[verb]


def _extended(
    wanted: frozenset[FilterElement], found: frozenset[FilterElement], stays: Callable[[FilterElement], bool]
) -> frozenset[FilterElement]:
    """What is wanted, and what else was found and stays; the same object where nothing does."""
    if wanted is found:
        return wanted
    kept = frozenset(filter(stays, found - wanted))
    return wanted | kept if kept else wanted


def _is_workloads(element: FilterElement, given: Comparison) -> bool:
    """Whether an element of a workload may still matter to it."""
    if not given.desired.complete:
        return True
    interface, *rest = element.values
    if given.desired.lost and interface in given.links:
        return True
    routed = [one for one in rest if isinstance(one, IPv4Address | IPv6Address)]
    routes = (given.actual.routes.get(RouteKey(ip_network(address))) for address in routed)
    return any(route is not None and route.device == interface for route in routes)


def _is_clusters(element: FilterElement, given: Comparison) -> bool:
    """Whether an element of a node or a tunnel device may still matter."""
    if not given.desired.complete:
        return True
    if element.of in (FilterSet.VXLAN_PORTS_4, FilterSet.VXLAN_PORTS_6, FilterSet.TUNNEL_PROTOCOLS):
        return element in _of_tunnels(given)
    return given.desired.lost and element.of is not FilterSet.BGP_PORTS


def _of_tunnels(given: Comparison) -> Iterator[FilterElement]:
    """Those of the tunnel devices that are up now."""
    return (tunnel_element(tunnel) for tunnel in given.actual.of(Kind.TUNNEL).values() if tunnel.up)
