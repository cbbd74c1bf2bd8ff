"""What etcd and BGP say of prefixes, from the stored values to the kernel of a fresh namespace."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agent.dataplane.desired_state_builder import MOST_NAMED, DesiredStateBuilder
from agent.dataplane.inputs.facts import FactSettings
from agent.dataplane.kernel.linux import NetlinkKernel
from agent.dataplane.reconciler import DesiredState
from agent.datastore.state_cache import StateCache
from agent.netlink.kernel_errors import KernelError
from agent.netlink.objects import Address, Link, RouteKey
from agent.trouble import TroubleKind
from ipam.etcd.store import Versioned
from ipam.keys import affinity_key, resource_key
from ipam.model import NodeName
from tests.fixtures.namespace import fresh_namespace, ip, make_links
from tests.scenes.dataplane.reconcilers import PATIENCE_SECONDS, Bench, running

ME, ETCD = NodeName("node1"), "172.26.0.2"
NEAR = ip_address("172.26.0.12")
SWITCHES = ("ipv4/conf/eth0/proxy_arp", "ipv4/conf/eth0/route_localnet", "ipv6/conf/eth0/accept_ra")


class Bgp:
    """What was learned."""

    def __init__(self) -> None:
        self.learned: dict[RouteKey, Address] = {}
        self.gateways: Mapping[Address, Address] = {}
        self.speakers: frozenset[tuple[Address, int]] = frozenset()
        self.converged = True

    def hops_among(self, key: RouteKey, passes: Callable[[Address], bool]) -> Address | None:
        found = self.learned.get(key)
        return found if found is not None and passes(found) else None

    def take_changed_routes(self) -> None:
        """Anywhere."""


class World(Bench):
    """A node with the address 172.26.0.1 that is in sync with what a test stores."""

    def __init__(self, kernel: NetlinkKernel) -> None:
        super().__init__(kernel)
        self.state, self.bgp = StateCache(ME), Bgp()
        self.datastore, self.in_sync = frozenset({ip_address(ETCD)}), True
        self.builder = DesiredStateBuilder(
            self.state,
            FactSettings(),
            self.bgp,
            self.reconciler.next_hops,
            lambda: self.in_sync,
            lambda: self.datastore,
        )
        self.store(
            resource("nodes", ME, "Node", bgp={"ipv4Address": "172.26.0.1/24", "ipv6Address": "fd26::1/64"}),
            resource("ippools", "p", "IPPool", cidr="192.168.0.0/16"),
            resource("ippools", "six", "IPPool", cidr="fd10::/64", blockSize=122),
        )

    def store(self, *values: tuple[str, str | None]) -> None:
        """These are what etcd has now; None: it is gone."""
        for key, value in values:
            self.state.apply(key, Versioned(key, value.encode(), 1) if value is not None else None)

    def learn(self, *prefixes: str) -> None:
        self.bgp.learned = {RouteKey(ip_network(one)): NEAR for one in prefixes}

    async def _compute_desired(self, links: Mapping[str, Link]) -> DesiredState:
        return await self.builder.build(links)


def resource(plural: str, name: str, kind: str, **spec: object) -> tuple[str, str]:
    document = {"kind": kind, "apiVersion": "projectcalico.org/v3", "metadata": {"name": name}, "spec": spec}
    return resource_key(plural, name), json.dumps(document)


def claim(prefix: str) -> tuple[str, str]:
    return affinity_key(ME, ip_network(prefix)), '{"state":"confirmed"}'


def endpoint(number: int, interface: str, *addresses: str) -> tuple[str, str]:
    key = resource_key("workloadendpoints", f"node1-cni-c{number}-eth0", "default")
    spec = {
        "orchestrator": "cni",
        "workload": f"w{number}",
        "containerID": f"c{number}",
        "node": ME,
        "endpoint": "eth0",
        "interfaceName": interface,
        "ipNetworks": [str(ip_network(one)) for one in addresses],
    }
    metadata = {"name": f"node1-cni-c{number}-eth0", "namespace": "default"}
    return key, json.dumps({"kind": "WorkloadEndpoint", "metadata": metadata, "spec": spec})


@pytest.fixture
def kernel() -> Iterator[NetlinkKernel]:
    with fresh_namespace():
        make_links("eth0", "cali1")
        ip("address add 172.26.0.1/24 dev eth0")
        ip("address add fd26::1/64 dev eth0")
        found = NetlinkKernel()
        yield found
        found.close()


@asynccontextmanager
async def settled(world: World) -> AsyncIterator[World]:
    async with running(world):
        await world.quiet()
        yield world


def table() -> set[str]:
    return {line.strip() for family in ("-4", "-6") for line in ip(f"{family} route").splitlines()}


def switches() -> list[str]:
    return [Path(f"/proc/sys/net/{name}").read_text() for name in SWITCHES]


WRONG = (
    *map(
        claim,
        ("172.26.0.0/26", "0.0.0.0/0", "128.0.0.0/1", "10.9.0.0/26", "127.0.0.0/26", "fd26::/122", "::/0"),
    ),
    endpoint(1, "cali1", ETCD, "8.8.8.8", "127.0.0.1", "fd26::9"),
    endpoint(2, "eth0", "192.168.1.9"),
    endpoint(3, "cali/../eth0", "192.168.1.10"),
)
RIGHT = (claim("192.168.1.0/26"), claim("fd10::40/122"), endpoint(4, "cali1", "192.168.1.11", "fd10::41"))
FROM_RIGHT = {
    "blackhole 192.168.1.0/26",
    "192.168.1.11 dev cali1",
    "blackhole fd10::40/122",
    "fd10::41 dev cali1",
}


async def test_what_nobody_may_have_leaves_the_kernel_as_it_was_and_the_correction_is_heard(
    kernel: NetlinkKernel,
) -> None:
    async with settled(World(kernel)) as world:
        before, was = table(), switches()
        world.store(*WRONG, *RIGHT)
        world.learn("127.0.0.0/8", "172.26.0.2/32", "255.255.255.255/32", "172.26.0.128/25", "203.0.113.0/24")
        await world.passed()
        expected = {*FROM_RIGHT, "203.0.113.0/24 via 172.26.0.12"}
        new = table() - before
        assert len(new) == len(expected)
        assert all(any(line.startswith(one) for one in expected) for line in new)
        assert switches() == was
        assert {one.kind for one in world.builder.troubles()} == {TroubleKind.PREFIX}
        troubles = (*world.builder.troubles(), *world.state.unreadable.troubles())
        assert not [key for key, _ in WRONG if not any(key in str(one) for one in troubles)]
        assert world.reconciler.report().refused == {}
        world.store(*((key, None) for key, _ in (*WRONG, *RIGHT)))
        world.learn()
        await world.passed()
        assert table() == before
        assert not list(world.builder.troubles())


async def test_a_pools_deletion_costs_no_pod_its_route_and_its_return_ends_the_trouble(
    kernel: NetlinkKernel,
) -> None:
    async with settled(World(kernel)) as world:
        world.store(*RIGHT)
        await world.passed()
        before = table()
        pools = [resource_key("ippools", name) for name in ("p", "six")]
        world.store(*((key, None) for key in pools))
        await world.passed()
        assert table() == before
        assert all("because it was before" in str(one) for one in world.builder.troubles())
        assert len(list(world.builder.troubles())) == 4
        # A pod whose interface goes down and comes back is the same pod.
        ip("link set cali1 down")
        await world.passed()
        ip("link set cali1 up")
        await world.until(lambda: any("192.168.1.11 dev cali1" in line for line in table()))
        world.store(resource("ippools", "p", "IPPool", cidr="192.168.0.0/16"))
        await world.passed()
        assert len(list(world.builder.troubles())) == 2


async def test_a_restarted_agent_without_the_pool_keeps_the_pods_routes(kernel: NetlinkKernel) -> None:
    async with settled(World(kernel)) as world:
        world.store(*RIGHT)
        await world.passed()
    pod = {line for line in table() if "cali1" in line}
    again = World(kernel)
    again.builder.inherit((await kernel.routes()).values())
    again.store(*((resource_key("ippools", name), None) for name in ("p", "six")), *RIGHT)
    async with settled(again):
        assert pod <= table()


async def test_who_waits_for_a_refused_route_is_told_why(kernel: NetlinkKernel) -> None:
    async with settled(World(kernel)) as world:
        world.store(endpoint(1, "cali1", "8.8.8.8"))
        with pytest.raises(KernelError, match=r"8\.8\.8\.8/32 is refused: lies in no pool"):
            await world.reconciler.wait_for_routes([RouteKey(ip_network("8.8.8.8"))], PATIENCE_SECONDS)


async def test_each_refusal_is_a_trouble_and_a_flood_is_counted(kernel: NetlinkKernel) -> None:
    async with settled(World(kernel)) as world:
        many = [claim(f"10.0.{number}.0/26") for number in range(MOST_NAMED + 5)]
        world.store(*many)
        await world.quiet()
        world.store(*((key, None) for key, _ in many[:3]))
        await world.quiet()
        troubles = [str(one) for one in world.builder.troubles()]
        assert len(troubles) == MOST_NAMED + 1
        assert troubles[-1] == "2 more prefixes of the datastore are refused"


async def test_before_the_pools_are_known_nobody_complains(kernel: NetlinkKernel) -> None:
    async with settled(World(kernel)) as world:
        world.in_sync = False
        world.store((resource_key("ippools", "p"), None))
        with capture_logs() as logs:
            world.store(*RIGHT)
            await world.quiet()
        assert list(world.builder.troubles()) == logs == []


async def test_an_address_that_the_host_gets_and_loses_moves_the_rule_at_once(kernel: NetlinkKernel) -> None:
    async with settled(World(kernel)) as world:
        world.learn("203.0.113.0/26")
        await world.passed()
        assert any("203.0.113.0/26" in line for line in table())
        ip("address add 203.0.113.1/24 dev eth0")
        await world.until(lambda: not any("203.0.113.0/26" in line for line in table()))
        ip("address del 203.0.113.1/24 dev eth0")
        await world.until(lambda: any("203.0.113.0/26" in line for line in table()))
