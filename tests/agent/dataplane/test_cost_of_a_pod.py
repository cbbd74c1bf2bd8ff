"""What a pod that comes and goes costs a node does not depend on how many others it has: counted in function calls."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path
from types import FrameType
from typing import Any

from agent.cni.gc import Attachments
from agent.cni.plugin.spec import parse
from agent.dataplane.desired.desired_sysctls import names_of
from agent.dataplane.desired.desired_tunnels import pod_mtu
from agent.dataplane.desired_state_builder import DesiredStateBuilder
from agent.dataplane.inputs.facts import FactSettings
from agent.dataplane.kinds.states import DesiredState
from agent.datastore.resources.ip_pool import IPPoolSpec
from agent.datastore.resources.resource_types import (
    IPPool,
    Metadata,
    Node,
    NodeBGPSpec,
    NodeSpec,
    WorkloadEndpoint,
    WorkloadEndpointSpec,
    encode,
)
from agent.datastore.state_cache import StateCache
from agent.netlink.objects import Address, Link, RouteKey
from agent.peering.originations import BorrowedAddresses
from ipam.etcd.store import Versioned
from ipam.keys import resource_key
from ipam.model import NodeName
from tests.fakes.kernel import FakeKernel
from tests.scenes.dataplane.reconcilers import Bench, running

ME = NodeName("node1")
POOL = resource_key("ippools", "pods")
STRANGER = parse(
    {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "c", "CNI_IFNAME": "eth0"},
    b'{"cniVersion": "1.0.0", "name": "n", "type": "tortie"}',
)
FEW, MANY = 50, 600
BY_CHANCE = 50
"""Calls by which two runs differ with how the loop's wake-ups fall (9 were seen); one per other pod would be 550."""
FIRST_ADDRESS = ip_address("192.168.0.1")
TESTS = f"{Path(__file__).parents[2]}/"
PRODUCT = tuple(f"{Path(__file__).parents[3]}/{room}/" for room in ("agent", "bgp", "ipam"))


class NoBgp:
    """No peer says anything."""

    learned: Mapping[RouteKey, Address] = {}
    gateways: Mapping[Address, Address] = {}
    speakers: frozenset[tuple[Address, int]] = frozenset()
    converged = True

    def hops_among(self, key: RouteKey, passes: Callable[[Address], bool]) -> None:
        del key, passes

    def take_changed_routes(self) -> Mapping[RouteKey, Address | None]:
        return {}


class NodeOfPods(Bench):
    """Everything between a pod's endpoint and the kernel, which is a fake's."""

    def __init__(self) -> None:
        super().__init__(FakeKernel())
        self.kernel, self.state = FakeKernel(), StateCache(ME)
        self.kernel.add_link("eth0", "172.26.0.11/20")
        super().__init__(self.kernel)
        spec, key = NodeSpec(bgp=NodeBGPSpec(ipv4_address="172.26.0.11/20")), resource_key("nodes", ME)
        self.state.apply(key, Versioned(key, encode(Node(metadata=Metadata(name=ME), spec=spec)), 1))
        pool = IPPool(metadata=Metadata(name="pods"), spec=IPPoolSpec(cidr="192.168.0.0/16"))
        self.state.apply(POOL, Versioned(POOL, encode(pool), 2))
        self.borrowed, self.attachments = BorrowedAddresses(), Attachments()
        next_hops = self.reconciler.next_hops
        self.builder = DesiredStateBuilder(self.state, FactSettings(), NoBgp(), next_hops, lambda: True)

    async def _compute_desired(self, links: Mapping[str, Link]) -> DesiredState:
        return await self.builder.build(links)

    def appear(self, number: int) -> WorkloadEndpoint:
        """A pod's link is there, and its endpoint is known."""
        endpoint = WorkloadEndpoint(
            metadata=Metadata(name=f"node1-k8s-{number}-eth0", namespace="default"),
            spec=WorkloadEndpointSpec(
                node=ME,
                orchestrator="k8s",
                endpoint="eth0",
                interface_name=f"cali{number}",
                ip_networks=[f"{FIRST_ADDRESS + number}/32"],
            ),
        )
        self.kernel.add_link(f"cali{number}")
        self.kernel.sysctl_table |= dict.fromkeys(names_of(f"cali{number}"), "0")
        self.state.add_endpoint(endpoint)
        return endpoint

    def route(self, number: int) -> RouteKey:
        return RouteKey(ip_network(FIRST_ADDRESS + number))

    async def add(self, number: int) -> WorkloadEndpoint:
        """As an ADD: a pod appears, its MTU is asked for, and its route stands."""
        assert pod_mtu(self.builder.facts())
        endpoint = self.appear(number)
        await self.reconciler.wait_for_routes([self.route(number)], 20)
        self.follow()
        return endpoint

    def follow(self) -> None:
        """What is done behind a pass, and what a verb asks of all endpoints."""
        assert len(self.borrowed.of(self.builder.facts())) == len(self.state.endpoints)
        assert not self.attachments.of(STRANGER, self.state.endpoints)

    async def delete(self, number: int, endpoint: WorkloadEndpoint) -> None:
        """As a DEL: the link goes, then the endpoint; and a pass has seen it."""
        self.kernel.delete_link(f"cali{number}")
        self.state.remove_endpoint(endpoint)
        await self.until(lambda: self.route(number) not in self.reconciler.installed)
        await self.passed()
        self.follow()


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """The calls that the product makes until the block ends, C's functions included, by their names."""
    found: Counter[str] = Counter()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event not in {"call", "c_call"} or not frame.f_code.co_filename.startswith(PRODUCT):
            return
        if event == "call" and frame.f_back is not None and frame.f_back.f_code.co_filename.startswith(TESTS):
            return  # a fake asks
        name = argument.__name__ if event == "c_call" else "itself"
        found[f"{frame.f_code.co_qualname} {name}"] += 1

    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(None)


async def calls_with(pods: int) -> tuple[Counter[str], Counter[str]]:
    """Of one ADD and of one DEL on a node that has so many pods."""
    async with running(node := NodeOfPods()):
        for number in range(pods):
            node.appear(number)
        await node.passed()
        for number in range(pods, pods + 2):  # what is done once is done
            await node.delete(number, await node.add(number))
        await node.quiet()
        with counted() as of_add:
            endpoint = await node.add(pods + 2)
        await node.quiet()
        with counted() as of_del:
            await node.delete(pods + 2, endpoint)
        return of_add, of_del


async def test_a_pod_costs_as_many_calls_on_a_node_with_600_others_as_on_one_with_50() -> None:
    few, many = await calls_with(FEW), await calls_with(MANY)
    for verb, one, other in zip(("ADD", "DEL"), few, many, strict=True):
        grown = {name: (one[name], count) for name, count in other.items() if count > one[name] + BY_CHANCE}
        assert not grown, f"{verb}: {grown}"
        assert other.total() <= one.total() + BY_CHANCE, verb
