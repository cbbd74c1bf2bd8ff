"""Which pools a pod's addresses are of: by the network's lists, by its namespace; and what an ADD says when none is."""

from __future__ import annotations

import json
from ipaddress import IPv4Network, ip_address
from pathlib import Path

import pytest

from ipam.etcd.store import Delete, Put
from ipam.keys import resource_key
from ipam.model import Pool, PoolRecord
from tests.scenes.cni.cni_world import POOL_KEY, World

PROFILE = resource_key("profiles", "kns.default")


class PoolWorld(World):
    """A node with a pool for production alone, beside the usual ones."""

    selector = "env == 'prod'"

    def pools_now(self) -> tuple[PoolRecord, ...]:
        """By name, as they are watched."""
        prod = Pool("a-prod", IPv4Network("10.5.0.0/24"), 26, namespace_selector=self.selector)
        return (PoolRecord(prod, POOL_KEY, self.revision), *super().pools_now())

    async def namespace(self, **labels: str) -> None:
        """As kube-controllers write it."""
        prefixed = {f"pcns.{name}": value for name, value in labels.items()}
        value = json.dumps({"kind": "Profile", "spec": {"labelsToApply": prefixed}})
        await self.store.commit((), (Put(PROFILE, value.encode()),))

    async def address(self, pod: str, **ipam: object) -> str:
        """The address of a new pod, or the error of its ADD."""
        config: dict[str, object] = {"ipam": ipam} if ipam else {}
        status, answer = await self.call("ADD", f"{pod}-{'0' * 20}", pod, config=config)
        return str(answer["ips"][0]["address"] if status == 0 else answer["msg"])


@pytest.fixture
async def world(tmp_path: Path) -> PoolWorld:
    made = PoolWorld(tmp_path)
    await made.start()
    return made


async def test_a_pods_address_is_of_a_pool_that_selects_its_namespace_as_it_is_labelled_now(
    world: PoolWorld,
) -> None:
    await world.namespace(env="prod")
    assert (await world.address("one")).startswith("10.5.0.")
    await world.namespace(env="test")
    assert (await world.address("two")).startswith("192.168.0.")
    await world.namespace(env="prod")
    assert (await world.address("three")).startswith("10.5.0.")
    await world.store.commit((), (Delete(PROFILE),))
    assert (await world.address("four")).startswith("192.168.0."), "passed over"
    assert [trouble.about for trouble in world.dependencies.namespaces.troubles()] == ["namespace default"]


async def test_where_no_other_pool_is_left_the_error_says_why_and_a_pool_that_is_named_is_used(
    world: PoolWorld,
) -> None:
    for pod in ("cni", "k8s"):
        environment = {"CNI_ARGS": ""} if pod == "cni" else {}
        status, answer = await world.call(
            "ADD",
            f"{pod}-{'0' * 20}",
            config={"ipam": {"ipv4_pools": ["p"]}, "runtimeConfig": {"ips": []}},
            environment=environment,
        )
        assert (
            status,
            ip_address(answer["ips"][0]["address"].split("/")[0]) in IPv4Network("192.168.0.0/24"),
        ) == (
            0,
            True,
        )
    world.pools_now = lambda: PoolWorld.pools_now(world)[:1]  # type: ignore[method-assign]
    await world.start()
    error = await world.address("one")
    assert "a-prod (10.5.0.0/24): is passed over" in error
    assert "there is no profile kns.default" in error
    assert (await world.address("two", ipv4_pools=["10.5.0.0/24"])).startswith("10.5.0.")


@pytest.mark.parametrize(
    ("ipam", "expected"),
    [
        ({"ipv4_pools": ["p", "a-prod"]}, "192.168.0."),
        ({"ipv4_pools": ["a-prod", "p"]}, "10.5.0."),
        ({"assign_ipv4": "false", "assign_ipv6": "true", "ipv6_pools": ["FD00:0010::/112"]}, "fd00:10::"),
        ({"ipv4_pools": ["p", "nowhere"]}, "error parsing pool 'nowhere'"),
        (
            {"ipv4_pools": ["p", "10.99.0.0/16"]},
            "the given pool (10.99.0.0/16) does not exist, or is not enabled",
        ),
        ({"ipv4_pools": ["p6"]}, "pool p6 (fd00:10::/112) isn't a IPv4 pool"),
        ({"ipv4_pools": ["p"], "ipv6_pools": ["p"]}, "pool p (192.168.0.0/24) isn't a IPv6 pool"),
    ],
)
async def test_the_pools_of_a_network_are_used_in_its_order_and_a_slip_in_them_is_told(
    world: PoolWorld, ipam: dict[str, object], expected: str
) -> None:
    await world.namespace(env="prod")
    assert (await world.address("one", **ipam)).startswith(expected)
