"""What of the workload filter comes, goes and stays: a workload that is attached is never cut off."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest

from agent.dataplane.kernel.dataplane_objects import (
    Dataplane,
    FilterElement,
    FilterSet,
    Kind,
    WorkloadFilter,
)
from agent.dataplane.kernel.filter_table import NAME
from agent.dataplane.kinds.object_kind import Delta
from agent.dataplane.kinds.states import ActualState, Comparison, DesiredState
from agent.dataplane.kinds.workload_filters import WorkloadFilters
from agent.netlink.objects import Link
from tests.fakes.kernel import FakeKernel
from tests.scenes.dataplane.desired_states import IPIP, POD, SOURCE, VXLAN
from tests.scenes.dataplane.reconcilers import Lines

OTHER = FilterElement(FilterSet.SOURCES_4, ("cali2", IPv4Address("10.1.0.8")))
PEER = FilterElement(FilterSet.PEERS, ("cali1",))
NODE = FilterElement(FilterSet.NODES_4, (IPv4Address("172.26.0.2"),))
PORT = FilterElement(FilterSet.VXLAN_PORTS_4, (4789,))
PROTOCOL = FilterElement(FilterSet.TUNNEL_PROTOCOLS, (4,))
LINK = Link(3, "cali1", "veth", 1500, up=True)


def held(*elements: FilterElement, intact: bool = True) -> WorkloadFilter:
    """A filter with these elements."""
    workloads = frozenset(one for one in elements if one.of in (FilterSet.SOURCES_4, FilterSet.PEERS))
    return WorkloadFilter(workloads, frozenset(elements) - workloads, intact)


async def delta(
    wanted: WorkloadFilter | None,
    found: WorkloadFilter | None,
    *,
    complete: bool = True,
    lost: bool = False,
    links: tuple[Link, ...] = (),
    **actual: Any,
) -> Delta[str, WorkloadFilter]:
    dataplane = Dataplane(workload_filter=wanted)
    objects = {Kind[name.upper()]: value for name, value in actual.items()}
    state = ActualState({**objects, Kind.FILTER: {NAME: found} if found is not None else {}})
    given = Comparison(
        DesiredState(dataplane, complete=complete, bgp_complete=True, lost=lost),
        state,
        {link.name: link for link in links},
    )
    return await WorkloadFilters(FakeKernel(), Lines()).diff(given)


async def becomes(
    wanted: WorkloadFilter | None, found: WorkloadFilter | None, **more: Any
) -> WorkloadFilter | None:
    """What the table holds after the step."""
    step = await delta(wanted, found, **more)
    return None if step.delete else {**step.wanted}.get(NAME, found)


async def test_a_table_is_first_made_when_all_addresses_are_known() -> None:
    assert await becomes(held(SOURCE), None, complete=False) is None
    assert await becomes(held(SOURCE), None) == held(SOURCE)


async def test_before_the_facts_are_complete_elements_only_come() -> None:
    assert await becomes(held(SOURCE, NODE), held(OTHER, PORT), complete=False) == held(
        SOURCE, NODE, OTHER, PORT
    )
    assert await becomes(held(SOURCE, NODE), held(OTHER, PORT)) == held(SOURCE, NODE)
    assert await becomes(None, held(OTHER), complete=False) == held(OTHER)


async def test_altered_rules_are_put_right_once_all_is_known() -> None:
    altered = held(SOURCE, intact=False)
    assert await becomes(held(SOURCE), altered, complete=False) == altered
    assert await becomes(held(SOURCE), altered) == held(SOURCE)


async def test_an_address_stays_while_a_route_to_it_leads_over_its_interface() -> None:
    routes = {POD.key: POD}
    assert await becomes(held(), held(SOURCE, PEER), route=routes) == held(SOURCE)
    moved = POD.with_(device="cali9")
    assert await becomes(held(), held(SOURCE), route={POD.key: moved}) == held()


async def test_what_cannot_be_read_cuts_nobody_off_who_is_there() -> None:
    found = held(SOURCE, PEER, OTHER, NODE)
    assert await becomes(held(), found, lost=True, links=(LINK,)) == held(SOURCE, PEER, NODE)
    assert await becomes(held(), found, links=(LINK,)) == held()


async def test_a_tunnels_element_stays_with_its_device() -> None:
    found = held(PORT, PROTOCOL)
    both = {VXLAN.name: VXLAN, IPIP.name: IPIP}
    assert await becomes(held(), found, tunnel=both) == found
    down = {IPIP.name: replace(IPIP, up=False)}
    assert await becomes(held(), found, tunnel={VXLAN.name: VXLAN, **down}) == held(PORT)
    assert await becomes(held(), found) == held()


async def test_the_switch_alone_takes_the_table_away() -> None:
    assert (await delta(None, held(SOURCE))).delete == {NAME: held(SOURCE)}
    assert not await delta(None, None)


@pytest.mark.parametrize("complete", [False, True])
async def test_a_filter_as_it_should_be_is_no_step(complete: bool) -> None:
    assert not await delta(held(SOURCE, NODE), held(NODE, SOURCE), complete=complete)
