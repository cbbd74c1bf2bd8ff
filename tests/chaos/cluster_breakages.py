"""One thing of the cluster that breaks and stays broken: pools, the datastore, peers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

from agent.lab import lab_processes
from tests.chaos.breaking import (
    DEFAULT_POOL,
    block_of,
    breaks,
    changed,
    must,
    one_node,
    resource_there,
    stopped,
)
from tests.chaos.faults import etcd_process
from tests.chaos.world import World

# -- pools -------------------------------------------------------------------------------------------------------------


@breaks("pool")
def the_pool_is_deleted(world: World) -> Iterator[None]:
    with changed(world, DEFAULT_POOL, None):
        yield


@breaks("pool")
def the_pool_is_disabled(world: World) -> Iterator[None]:
    with changed(world, DEFAULT_POOL, {"disabled": True}):
        yield


@breaks("pool")
def the_pool_selects_no_node(world: World) -> Iterator[None]:
    with changed(world, DEFAULT_POOL, {"nodeSelector": "!all()"}):
        yield


@breaks("ippools", "pool")
def the_pool_cannot_be_read(world: World) -> Iterator[None]:
    with changed(world, DEFAULT_POOL, {"cidr": "192.168.0.0/banana"}):
        yield


@breaks()
def the_pool_has_no_encapsulation(world: World) -> Iterator[None]:
    with changed(world, DEFAULT_POOL, {"vxlanMode": "Never", "ipipMode": "Never"}):
        yield


# -- the datastore -----------------------------------------------------------------------------------------------------


@breaks("etcd")
def etcd_is_away(world: World) -> Iterator[None]:
    world.say("etcd is stopped")
    lab_processes.stop_etcd(world.lab.plan)
    try:
        yield
    finally:
        lab_processes.start_etcd(world.lab.plan)


@breaks("etcd")
def etcd_hangs(world: World) -> Iterator[None]:
    world.say("etcd is frozen")
    pid = etcd_process(world)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@breaks("node")
def a_nodes_record_goes(world: World) -> Iterator[None]:
    node = one_node(world, "the Node is deleted")
    with changed(world, f"/calico/resources/v3/projectcalico.org/nodes/{node.name}", None):
        yield


@breaks("nodes/")
def a_nodes_record_cannot_be_read(world: World) -> Iterator[None]:
    node = one_node(world, "the Node is junk")
    key = f"/calico/resources/v3/projectcalico.org/nodes/{node.name}"
    before = world.etcdctl("get", "--print-value-only", key)
    world.put(key, b"{")
    try:
        yield
    finally:
        world.put(key, before.rstrip(b"\n"))


@breaks("block", "address")
def a_block_goes(world: World) -> Iterator[None]:
    node = one_node(world, "a block is deleted")
    name = block_of(world, node).replace("/", "-")
    with changed(world, f"/calico/ipam/v2/assignment/ipv4/block/{name}", None):
        yield


@breaks("block", "claim", "affinit")
def a_claim_goes(world: World) -> Iterator[None]:
    node = one_node(world, "a block's affinity is deleted")
    name = block_of(world, node).replace("/", "-")
    with changed(world, f"/calico/ipam/v2/host/{node.name}/ipv4/block/{name}", None):
        yield


# -- peers -------------------------------------------------------------------------------------------------------------


@breaks()
def an_agent_is_away(world: World) -> Iterator[None]:
    node = one_node(world, "the agent is killed")
    lab_processes.stop_agent(node, signal.SIGKILL)
    try:
        yield
    finally:
        lab_processes.start_agents([node])


@breaks()
def an_agent_hangs(world: World) -> Iterator[None]:
    node = one_node(world, "the agent is frozen")
    with stopped(world, node):
        yield


@breaks("peer", "block", "route", "mesh")
def there_is_no_mesh(world: World) -> Iterator[None]:
    world.say("nodeToNodeMeshEnabled false")
    with resource_there(world, "bgpconfigurations", "default", {"nodeToNodeMeshEnabled": False}):
        yield


@breaks("peer", "refused", "filter")
def a_filter_rejects_everything(world: World) -> Iterator[None]:
    world.say("a BGPFilter rejects all")
    rule = {"action": "Reject", "matchOperator": "In", "cidr": "0.0.0.0/0"}
    filtered = {"importV4": [rule], "exportV4": [rule]}
    peer = {"peerSelector": "all()", "filters": ["law"]}
    with resource_there(world, "bgpfilters", "law", filtered), resource_there(world, "bgppeers", "law", peer):
        yield


@breaks("peer", "bgp")
def bgp_is_dropped_on_its_way(world: World) -> Iterator[None]:
    node = one_node(world, "nft drops TCP 179")
    must(world, node, "nft add table inet law")
    must(world, node, "nft add chain inet law i { type filter hook input priority 0 ; policy accept ; }")
    must(world, node, "nft add rule inet law i tcp dport 179 drop")
    must(world, node, "nft add rule inet law i tcp sport 179 drop")
    try:
        yield
    finally:
        must(world, node, "nft delete table inet law")
