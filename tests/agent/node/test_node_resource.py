"""The node's own resource: registered, corrected, never at another node's cost."""

from __future__ import annotations

import json
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from agent.dataplane.desired.desired_tunnels import vtep_mac
from agent.dataplane.kernel.calico_names import TUNL0, VXLAN_DEVICE
from agent.datastore.resources.resource_types import LARGEST_TTL_ANNOTATION
from agent.datastore.state_cache import NODES
from agent.lab.lab_plan import Mode
from agent.netlink.objects import Tunnel, TunnelKind
from agent.node.node_controller import node_inputs
from agent.node.own_addresses import CHANGE_SECONDS
from ipam.etcd.store import Delete, Put
from ipam.failures import Unreadable
from ipam.keys import block_key, resource_key
from ipam.model import AddressRequest, HandleId
from tests.scenes.datastore.own_node import KEY, ME, World


async def test_a_node_registers_with_its_address_and_labels() -> None:
    stored = await World().passed()
    assert stored["spec"]["bgp"] == {"ipv4Address": "172.26.0.11/20"}
    assert stored["metadata"]["labels"] == {"rack": "r1"}
    assert stored["metadata"]["uid"]


async def test_what_others_wrote_into_the_record_stays() -> None:
    world = World()
    other = {
        "kind": "Node",
        "metadata": {"name": ME, "labels": {"zone": "z"}},
        "spec": {"bgp": {"asNumber": 64999}, "odd": 1},
    }
    await world.store.commit((), (Put(KEY, json.dumps(other).encode()),))
    stored = await world.passed()
    assert stored["spec"]["bgp"] == {"asNumber": 64999, "ipv4Address": "172.26.0.11/20"}
    assert (stored["spec"]["odd"], stored["metadata"]["labels"]) == (1, {"zone": "z", "rack": "r1"})


async def test_a_second_pass_writes_nothing() -> None:
    world = World()
    await world.pool(Mode.VXLAN)
    await world.passed()
    before = world.store.copy()
    await world.passed()
    assert world.store.copy() == before


@pytest.mark.parametrize(
    ("mode", "path", "handle"),
    [
        (Mode.VXLAN, ("ipv4VXLANTunnelAddr",), "vxlan-tunnel-addr-node1"),
        (Mode.IPIP, ("bgp", "ipv4IPIPTunnelAddr"), "ipip-tunnel-addr-node1"),
    ],
)
async def test_a_tunnel_address_is_an_allocation_and_goes_when_no_pool_wants_it(
    mode: Mode, path: tuple[str, ...], handle: str
) -> None:
    world = World()
    await world.pool(mode)
    spec: Any = (await world.passed())["spec"]
    for name in path:
        spec = spec[name]
    (held,) = await world.allocator.assigned(HandleId(handle))
    assert spec == str(held.address)
    await world.pool(Mode.NONE)
    spec = (await world.passed())["spec"]
    assert "ipv4VXLANTunnelAddr" not in spec
    assert "ipv4IPIPTunnelAddr" not in spec["bgp"]
    assert await world.allocator.assigned(HandleId(handle)) == ()


async def test_a_tunnel_address_stays_while_the_tunnel_that_a_pool_asks_for_instead_is_not_there() -> None:
    """A pool of VXLAN becomes one of IPIP, and the kernel cannot make tunl0: packets still go by vxlan.calico."""
    world = World()
    await world.pool(Mode.VXLAN)
    address = (await world.passed())["spec"]["ipv4VXLANTunnelAddr"]
    world.kernel.tunnel_table[VXLAN_DEVICE] = Tunnel(
        VXLAN_DEVICE, TunnelKind.VXLAN, 1450, ip_address(address)
    )
    await world.pool(Mode.IPIP)
    spec = (await world.passed())["spec"]
    assert spec["ipv4VXLANTunnelAddr"] == address
    world.kernel.tunnel_table[TUNL0] = Tunnel(
        TUNL0, TunnelKind.IPIP, 1480, ip_address(spec["bgp"]["ipv4IPIPTunnelAddr"])
    )
    assert "ipv4VXLANTunnelAddr" not in (await world.passed())["spec"]


async def test_a_vxlan_node_publishes_the_address_of_its_vtep() -> None:
    world = World()
    await world.pool(Mode.VXLAN)
    assert (await world.passed())["spec"]["vxlanTunnelMACAddr"] == vtep_mac(ME)


async def test_an_address_that_another_node_has_is_not_taken_and_the_other_is_named() -> None:
    world = World()
    other = {
        "kind": "Node",
        "metadata": {"name": "node9"},
        "spec": {"bgp": {"ipv4Address": "172.26.0.11/20"}},
    }
    await world.store.commit((), (Put(resource_key("nodes", "node9"), json.dumps(other).encode()),))
    await world.look()
    await world.resource.reconcile()
    assert (
        world.resource.trouble
        == "node address 172.26.0.11 is already used by node node9; give one of them another"
    )
    assert KEY not in world.store.copy()


async def test_a_node_that_lost_its_address_gives_it_back_so_that_two_can_swap() -> None:
    world = World(address="", endpoints=("http://172.26.0.1:2379",))
    world.kernel.add_link("eth0", "172.26.0.11/20")
    await world.passed()
    other = {
        "kind": "Node",
        "metadata": {"name": "node9"},
        "spec": {"bgp": {"ipv4Address": "172.26.0.12/20"}},
    }
    await world.store.commit((), (Put(resource_key("nodes", "node9"), json.dumps(other).encode()),))
    world.kernel.delete_link("eth0")
    world.kernel.add_link("eth0", "172.26.0.12/20")
    await world.passed()
    world.clock.at += CHANGE_SECONDS
    stored = await world.passed()
    assert world.resource.trouble is not None
    assert "node9" in world.resource.trouble
    assert "ipv4Address" not in stored["spec"]["bgp"]


async def test_an_interface_that_is_bare_for_a_moment_takes_nothing_back() -> None:
    world = World(address="", endpoints=("http://172.26.0.1:2379",))
    world.kernel.add_link("eth0", "172.26.0.11/20")
    before = await world.passed()
    world.kernel.delete_link("eth0")
    assert await world.passed() == before
    assert world.resource.trouble is not None


async def test_a_changed_address_is_followed() -> None:
    world = World(address="", endpoints=("http://172.26.0.1:2379",))
    world.kernel.add_link("eth0", "172.26.0.11/20")
    await world.passed()
    before = node_inputs(world.state, world.kernel.link_table)
    world.kernel.delete_link("eth0")
    world.kernel.add_link("eth0", "172.26.0.13/20")
    assert node_inputs(world.state, world.kernel.link_table) != before
    assert (await world.passed())["spec"]["bgp"] == {"ipv4Address": "172.26.0.11/20"}
    assert world.resource.is_changing
    world.clock.at += CHANGE_SECONDS
    assert (await world.passed())["spec"]["bgp"] == {"ipv4Address": "172.26.0.13/20"}


async def test_with_an_ipv6_pool_the_node_has_an_ipv6_address_and_a_vtep() -> None:
    world = World()
    world.kernel.add_link("eth0", "172.26.0.11/20", "fd26::11/64")
    spec = {"cidr": "fd10::/64", "vxlanMode": "Always", "ipipMode": "Never", "natOutgoing": False}
    pool = {"kind": "IPPool", "apiVersion": "projectcalico.org/v3", "metadata": {"name": "six"}, "spec": spec}
    await world.store.commit((), (Put(resource_key("ippools", "six"), json.dumps(pool).encode()),))
    spec = (await world.passed())["spec"]
    assert spec["bgp"] == {"ipv4Address": "172.26.0.11/20", "ipv6Address": "fd26::11/64"}
    assert spec["vxlanTunnelMACAddrV6"] == vtep_mac(ME, 6)
    (held,) = await world.allocator.assigned(HandleId("vxlan-v6-tunnel-addr-node1"))
    assert spec["ipv6VXLANTunnelAddr"] == str(held.address)
    assert "ipv4VXLANTunnelAddr" not in spec


async def test_a_host_without_any_address_says_what_to_do() -> None:
    world = World(address="")
    await world.look()
    await world.resource.reconcile()
    assert world.resource.trouble is not None
    assert world.resource.trouble.endswith("give one as node.address")


async def test_every_address_is_listed_with_the_reason_it_is_or_is_not_the_nodes() -> None:
    world = World(address="", endpoints=("http://172.26.0.1:2379",))
    world.kernel.add_link("eth0", "172.26.0.11/20")
    world.kernel.add_link("eth1", "192.0.2.7/24", "192.0.2.8/24")
    world.kernel.add_link("eth2", "198.51.100.7/24", up=False)
    other = {"kind": "Node", "metadata": {"name": "node9"}, "spec": {"bgp": {"ipv4Address": "192.0.2.7/24"}}}
    await world.store.commit((), (Put(resource_key("nodes", "node9"), json.dumps(other).encode()),))
    await world.passed()
    rows = {str(row["address"].ip): (row["taken"], row["why"]) for row in world.resource.address_report()}
    assert rows == {
        "172.26.0.11": (True, "route to 172.26.0.1 by eth0"),
        "192.0.2.7": (False, "is used by node node9"),
        "192.0.2.8": (False, "is not the source of the route to 172.26.0.1"),
        "198.51.100.7": (False, "eth2 is down"),
    }


async def test_the_record_says_whether_ttl_255_may_be_demanded_and_keeps_other_annotations() -> None:
    world = World()
    world.kernel.add_link("eth0", "172.26.0.11/20")
    assert (await world.passed())["metadata"]["annotations"] == {LARGEST_TTL_ANNOTATION: "255"}
    record = json.loads(world.store.copy()[KEY])
    record["metadata"]["annotations"]["example.com/rack"] = "7"
    await world.store.commit((), (Put(KEY, json.dumps(record).encode()),))
    assert (await world.passed())["metadata"]["annotations"] == {
        LARGEST_TTL_ANNOTATION: "255",
        "example.com/rack": "7",
    }
    world.restart(mesh_ttl_security=False)
    assert (await world.passed())["metadata"]["annotations"] == {"example.com/rack": "7"}


@pytest.mark.parametrize(
    "value",
    [b"", b"[]", b"{", b'{"spec":null}', b'{"metadata":{"labels":null},"spec":{"bgp":null}}', b"[" * 5000],
)
async def test_a_record_that_nobody_can_read_is_written_anew_with_what_the_tunnels_bear(
    value: bytes, tmp_path: Path
) -> None:
    world = World(aside=tmp_path)
    await world.pool(Mode.VXLAN)
    good = await world.passed()
    (held,) = await world.allocator.assigned(HandleId("vxlan-tunnel-addr-node1"))
    started = World(aside=tmp_path, store=world.store)
    device = Tunnel(VXLAN_DEVICE, TunnelKind.VXLAN, 1450, held.address, vni=4096)
    started.kernel.tunnel_table[VXLAN_DEVICE] = device
    await world.store.commit((), (Put(KEY, value), Put(block_key(held.block), b"{")))
    await started.look()
    with pytest.raises(Unreadable, match="block"):  # what is allocated to the tunnel nobody can say
        await started.resource.reconcile()
    assert json.loads(world.store.copy()[KEY])["spec"] == good["spec"]
    assert [path.read_bytes() for path in (tmp_path / "unreadable").iterdir()] == [value]


async def test_a_tunnel_address_stays_while_its_block_or_a_pool_cannot_be_read(tmp_path: Path) -> None:
    world = World(aside=tmp_path)
    await world.pool(Mode.VXLAN)
    good = await world.passed()
    (held,) = await world.allocator.assigned(HandleId("vxlan-tunnel-addr-node1"))
    before = world.store.copy()[block_key(held.block)]
    await world.store.commit((), (Put(block_key(held.block), b"{"),))
    with pytest.raises(Unreadable):
        await world.resource.reconcile()
    assert json.loads(world.store.copy()[KEY])["spec"] == good["spec"]
    pool = resource_key("ippools", "default-ipv4-ippool")
    await world.store.commit((), (Put(block_key(held.block), before), Put(pool, b"{")))
    started = World(aside=tmp_path, store=world.store)
    await started.look()
    assert started.state.has_lost_pools
    await started.resource.reconcile()
    assert json.loads(world.store.copy()[KEY])["spec"] == good["spec"]


async def test_a_record_that_an_older_datastore_has_lost_is_written_back_as_it_was() -> None:
    world = World()
    other = {
        "kind": "Node",
        "metadata": {"name": ME, "labels": {"zone": "z"}},
        "spec": {"bgp": {"asNumber": 64999}},
    }
    backup = world.store.backup()
    await world.store.commit((), (Put(KEY, json.dumps(other).encode()),))
    before = await world.passed()
    world.store.restore(backup)
    world.state.replace(NODES, {}, keep=True)
    assert world.state.own_node is not None, "its facts stay"
    await world.resource.reconcile()
    assert json.loads(world.store.copy()[KEY]) == before


async def test_a_record_that_somebody_deleted_is_made_anew() -> None:
    world = World()
    other = {"kind": "Node", "metadata": {"name": ME}, "spec": {"bgp": {"asNumber": 64999}}}
    await world.store.commit((), (Put(KEY, json.dumps(other).encode()),))
    await world.passed()
    await world.store.commit((), (Delete(KEY),))
    world.state.apply(KEY, None)
    assert "asNumber" not in (await world.passed())["spec"]["bgp"]


@pytest.mark.parametrize("place", ["record", "device"])
async def test_a_tunnel_address_that_an_older_datastore_has_forgotten_stays_what_it_is(place: str) -> None:
    world = World()
    await world.pool(Mode.VXLAN)
    backup = world.store.backup()
    await world.look()
    await world.allocator.assign(AddressRequest(HandleId("x"), ME))  # so that it is not the first address
    was = (await world.passed())["spec"]["ipv4VXLANTunnelAddr"]
    stored = world.store.copy()[KEY]
    world.store.restore(backup)
    world.allocator.forget()
    if place == "record":
        await world.store.commit((), (Put(KEY, stored),))
    else:
        world.kernel.add_link("vxlan.calico", f"{was}/32")
    assert (await world.passed())["spec"]["ipv4VXLANTunnelAddr"] == was
    (held,) = await world.allocator.assigned(HandleId("vxlan-tunnel-addr-node1"))
    assert str(held.address) == was


async def test_a_tunnel_address_that_a_pod_has_got_meanwhile_is_another_one() -> None:
    world = World()
    await world.pool(Mode.VXLAN)
    backup = world.store.backup()
    was = (await world.passed())["spec"]["ipv4VXLANTunnelAddr"]
    stored = world.store.copy()[KEY]
    world.store.restore(backup)
    world.allocator.forget()
    await world.store.commit((), (Put(KEY, stored),))
    await world.allocator.assign(AddressRequest(HandleId("pod"), ME, exact=(ip_address(was),)))
    assert (await world.passed())["spec"]["ipv4VXLANTunnelAddr"] != was
