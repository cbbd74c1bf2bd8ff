"""A tunnel's address: an allocation like others, which stays while its pool is there (decision 48)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.clock import SystemClock
from agent.datastore.state_cache import POOLS
from ipam.allocation.allocator import Allocator
from ipam.etcd.store import Delete, Put
from ipam.failures import NoPool
from ipam.keys import resource_key
from ipam.model import AddressRequest, HandleId, Use
from tests.scenes.datastore.own_node import KEY, ME, World

DISABLED: dict[str, Any] = {"disabled": True}
NOBODY: dict[str, Any] = {"nodeSelector": "!all()"}
OTHERS: dict[str, Any] = {"nodeSelector": "rack == 'r2'"}
NO_MODE: dict[str, Any] = {"ipipMode": "Never", "vxlanMode": "Never"}
TUNNELS = {
    "vxlan": ({"vxlanMode": "Always", "ipipMode": "Never"}, "vxlan-tunnel-addr-node1"),
    "cross": ({"vxlanMode": "CrossSubnet", "ipipMode": "Never"}, "vxlan-tunnel-addr-node1"),
    "ipip": ({"vxlanMode": "Never", "ipipMode": "Always"}, "ipip-tunnel-addr-node1"),
}


async def put_pool(world: World, name: str, cidr: str = "10.1.0.0/16", **spec: Any) -> None:
    document = {"kind": "IPPool", "apiVersion": "projectcalico.org/v3", "metadata": {"name": name}}
    value = json.dumps({**document, "spec": {"cidr": cidr, **NO_MODE, **spec}}).encode()
    await world.store.commit((), (Put(resource_key("ippools", name), value),))


async def tunnel_address(world: World, handle: str) -> str:
    """The address of a tunnel: the record has the one that is allocated, and there is one."""
    spec = (await world.passed())["spec"]
    (held,) = await world.allocator.assigned(HandleId(handle))
    assert str(held.address) in (spec.get("ipv4VXLANTunnelAddr"), spec["bgp"].get("ipv4IPIPTunnelAddr"))
    return str(held.address)


def blocks(world: World) -> list[str]:
    """The first three octets of the blocks that are claimed."""
    keys = [key for key in world.store.copy() if key.startswith("/calico/ipam/v2/host/node1/ipv4/block/")]
    return sorted(key.rpartition("/")[2].rpartition(".")[0] for key in keys)


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside another"])
@pytest.mark.parametrize("change", [DISABLED, NOBODY, OTHERS], ids=["disabled", "nobody", "others"])
@pytest.mark.parametrize("mode", TUNNELS)
async def test_a_tunnel_address_stays_while_its_pool_does_whoever_may_take_addresses_from_it(
    mode: str, change: dict[str, Any], beside: bool
) -> None:
    world, (spec, handle) = World(), TUNNELS[mode]
    await put_pool(world, "p", **spec)
    before = await tunnel_address(world, handle)
    if beside:
        await put_pool(world, "a", "10.2.0.0/16", **spec)
    await put_pool(world, "p", **spec, **change)
    assert await tunnel_address(world, handle) == before
    written = world.store.copy()
    await world.passed()
    assert world.store.copy() == written
    await world.store.commit((), (Delete(resource_key("ippools", "p")),))
    if beside:
        assert (await tunnel_address(world, handle)).startswith("10.2."), "its pool is gone"
    else:
        await world.passed()
        assert await world.allocator.assigned(HandleId(handle)) == ()


async def test_a_tunnel_address_stays_in_its_pool_though_only_another_is_encapsulated_now() -> None:
    world, (spec, handle) = World(), TUNNELS["vxlan"]
    await put_pool(world, "p", **spec)
    before = await tunnel_address(world, handle)
    await put_pool(world, "a", "10.2.0.0/16", **spec)
    await put_pool(world, "p")
    assert await tunnel_address(world, handle) == before


@pytest.mark.parametrize("change", [DISABLED, NOBODY, OTHERS], ids=["disabled", "nobody", "others"])
@pytest.mark.parametrize("mode", TUNNELS)
async def test_a_node_that_comes_later_has_a_tunnel_address_and_takes_it_where_it_may(
    mode: str, change: dict[str, Any]
) -> None:
    world, (spec, handle) = World(), TUNNELS[mode]
    await put_pool(world, "p", **spec, **change)
    await put_pool(world, "x", "10.2.0.0/16")
    assert (await tunnel_address(world, handle)).startswith("10.2.")
    assert blocks(world) == ["10.2.0"] or all(block.startswith("10.2.") for block in blocks(world))
    alone = World()
    await put_pool(alone, "p", **spec, **change)
    assert (await tunnel_address(alone, handle)).startswith("10.1.")


async def test_a_full_pool_is_passed_over_for_the_next_that_may_give_a_tunnel_address() -> None:
    world, (spec, handle) = World(), TUNNELS["vxlan"]
    await put_pool(world, "p", "10.1.0.0/30", blockSize=30, **spec)
    await world.look()
    await world.allocator.assign(AddressRequest(HandleId("pods"), ME, ipv4=4))
    await put_pool(world, "x", "10.2.0.0/16")
    assert (await tunnel_address(world, handle)).startswith("10.2.")


async def test_of_several_addresses_under_one_handle_the_recorded_one_stays() -> None:
    world, (spec, handle) = World(), TUNNELS["vxlan"]
    await put_pool(world, "p", **spec)
    before = (await world.passed())["spec"]["ipv4VXLANTunnelAddr"]
    for use in (Use.TUNNEL, Use.TUNNEL):
        request = AddressRequest(HandleId(handle), ME, use=use, ipv4=2)
        await world.allocator.assign(request)
    record = json.loads(world.store.copy()[KEY])
    held = [str(one.address) for one in await world.allocator.assigned(HandleId(handle))]
    assert len(held) == 2
    for chosen in (*held, before):
        record["spec"]["ipv4VXLANTunnelAddr"] = chosen
        await world.store.commit((), (Put(KEY, json.dumps(record).encode()),))
        assert (await world.passed())["spec"]["ipv4VXLANTunnelAddr"] == chosen


async def test_a_tunnel_without_an_address_is_a_trouble_that_names_it_and_stops_no_other() -> None:
    world = World()
    await put_pool(world, "a", **TUNNELS["ipip"][0], allowedUses=["Workload"])
    await put_pool(world, "b", "10.2.0.0/16", **TUNNELS["vxlan"][0], allowedUses=["Workload"])
    await world.look()
    with pytest.raises(NoPool, match=r"^tunl0 has no address, and hosts .*allowedUses"):
        await world.resource.reconcile()
    six = {"vxlanMode": "Always", "ipipMode": "Never"}
    await put_pool(world, "c", "10.3.0.0/16", **six)
    await world.look()
    await world.resource.reconcile()
    assert len(await world.allocator.assigned(HandleId("ipip-tunnel-addr-node1"))) == 1


async def test_a_tunnel_address_stays_while_an_older_datastore_lacks_its_pool() -> None:
    world, (spec, handle) = World(), TUNNELS["vxlan"]
    world.allocator = Allocator(world.store, SystemClock().wall, lambda: world.state.usable_pools)
    world.restart()
    await put_pool(world, "x", "10.2.0.0/16", **spec)
    await put_pool(world, "p", **spec)
    before = await tunnel_address(world, handle)
    lacking = {
        key: value
        for key, value in (await world.store.list(POOLS)).values.items()
        if before[:5] in str(value)
    }
    await world.store.commit((), tuple(map(Delete, lacking)))
    world.state.replace(POOLS, (await world.store.list(POOLS)).values, keep=True)
    assert world.state.missing
    await world.resource.reconcile()
    (held,) = await world.allocator.assigned(HandleId(handle))
    assert (str(held.address), json.loads(world.store.copy()[KEY])["spec"]["ipv4VXLANTunnelAddr"]) == (
        before,
        before,
    )
