"""One thing that breaks and stays broken: addresses, links, routers, switches of the kernel, pools, etcd, peers.

A breakage is a context manager like a fault, entered when it breaks and left when somebody mends it. `words` are what a
trouble that names it has one of. What nobody on a node can see, a filter on a router between them, is none of these.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from agent.lab import lab_processes
from agent.lab.lab_plan import LabNode
from tests.chaos.faults import etcd_process
from tests.chaos.world import World

DEFAULT_POOL = "/calico/resources/v3/projectcalico.org/ippools/default-ipv4-ippool"
KINDS = {"bgpconfigurations": "BGPConfiguration", "bgpfilters": "BGPFilter", "bgppeers": "BGPPeer"}
OTHERS_DEVICE = "law0"
"""What somebody else calls a device."""


@dataclass(frozen=True, slots=True)
class Breakage:
    """One thing that can break."""

    name: str
    run: Callable[[World], AbstractContextManager[None]]
    words: tuple[str, ...]
    """In lower case; a trouble has one of them. Empty: no ping may be lost."""


BREAKAGES: list[Breakage] = []


def breaks(*words: str) -> Callable[[Callable[[World], Iterator[None]]], Breakage]:
    """Make a breakage of a generator function, named after it."""

    def made(run: Callable[[World], Iterator[None]]) -> Breakage:
        one = Breakage(run.__name__.replace("_", " "), contextmanager(run), words)
        BREAKAGES.append(one)
        return one

    return made


def _node(world: World, what: str) -> LabNode:
    node = world.any_node()
    world.say(f"{what} on {node.name}")
    return node


def _others(world: World, node: LabNode) -> LabNode:
    return world.chance.choice([one for one in world.nodes if one is not node])


def _must(world: World, node: LabNode, words: str) -> str:
    done = world.on(node, *words.split())
    if done.returncode != 0:
        raise AssertionError(f"{words} on {node.name}: {done.stderr}")
    return done.stdout


def _block(world: World, node: LabNode) -> str:
    """A block of a node, as others route it."""
    for line in _must(world, node, "ip -4 route").splitlines():
        if line.startswith("blackhole"):
            return line.split()[1]
    raise AssertionError(f"{node.name} has no block")


def _host_ends(world: World, node: LabNode) -> list[str]:
    links = json.loads(_must(world, node, "ip -j link"))
    return [link["ifname"] for link in links if link["ifname"].startswith("cali")]


# -- addresses ---------------------------------------------------------------------------------------------------------


@breaks("address", "eth0")
def the_nodes_address_goes(world: World) -> Iterator[None]:
    node = _node(world, "the address goes")
    _must(world, node, f"ip addr del {node.interface} dev eth0")
    try:
        yield
    finally:
        _must(world, node, f"ip addr add {node.interface} dev eth0")
        world.on(node, "ip", "route", "add", "default", "via", "172.26.0.1")


@breaks()
def a_virtual_address_comes_first(world: World) -> Iterator[None]:
    node = _node(world, "a VIP")
    _must(world, node, "ip addr add 172.26.15.250/20 dev eth0")
    try:
        yield
    finally:
        _must(world, node, "ip addr del 172.26.15.250/20 dev eth0")


@breaks("address", "answers", "mac")
def another_machine_has_the_nodes_address(world: World) -> Iterator[None]:
    node = _node(world, "another machine has the address")
    space = f"{world.lab.plan.prefix}pod-law"
    _run("ip", "netns", "add", space)
    try:
        cable = f"ip link add {OTHERS_DEVICE} type veth peer name eth0 netns {space}"
        for words in (cable, f"ip link set {OTHERS_DEVICE} master br0", f"ip link set {OTHERS_DEVICE} up"):
            _run(*lab_processes.inside(world.lab.plan.fabric, words.split()))
        for words in ("ip link set eth0 up", f"ip addr add {node.interface} dev eth0"):
            _run(*lab_processes.inside(space, words.split()))
        for one in world.nodes:  # they ask anew, and hear both
            world.on(one, "ip", "neigh", "flush", "dev", "eth0")
        yield
    finally:
        _run("ip", "netns", "del", space)
        for one in world.nodes:
            world.on(one, "ip", "neigh", "flush", "dev", "eth0")


@breaks("address", "prefix", "link", "next hop")
def the_prefix_is_a_hosts(world: World) -> Iterator[None]:
    node = _node(world, "the address becomes a /32")
    _must(world, node, f"ip addr del {node.interface} dev eth0")
    _must(world, node, f"ip addr add {node.interface.ip}/32 dev eth0")
    try:
        yield
    finally:
        _must(world, node, f"ip addr del {node.interface.ip}/32 dev eth0")
        _must(world, node, f"ip addr add {node.interface} dev eth0")
        world.on(node, "ip", "route", "add", "default", "via", "172.26.0.1")


@breaks()
def the_tunnels_address_goes(world: World) -> Iterator[None]:
    node = _node(world, "vxlan.calico loses its address")
    _must(world, node, "ip addr flush dev vxlan.calico scope global")
    yield


# -- links -------------------------------------------------------------------------------------------------------------


@breaks("eth0", "address")
def the_interface_is_down(world: World) -> Iterator[None]:
    node = _node(world, "eth0 down")
    _must(world, node, "ip link set eth0 down")
    try:
        yield
    finally:
        _must(world, node, "ip link set eth0 up")
        world.on(node, "ip", "route", "add", "default", "via", "172.26.0.1")


@breaks("eth0", "address", "carrier")
def the_cable_is_out(world: World) -> Iterator[None]:
    node = _node(world, "no carrier")
    _run(*lab_processes.inside(world.lab.plan.fabric, ["ip", "link", "set", node.name, "down"]))
    try:
        yield
    finally:
        _run(*lab_processes.inside(world.lab.plan.fabric, ["ip", "link", "set", node.name, "up"]))


@breaks("eth0", "eth9", "address")
def the_interface_has_another_name(world: World) -> Iterator[None]:
    node = _node(world, "eth0 is eth9")
    _rename(world, node, "eth0", "eth9")
    try:
        yield
    finally:
        _rename(world, node, "eth9", "eth0")
        world.on(node, "ip", "route", "add", "default", "via", "172.26.0.1")


@breaks("mtu")
def the_underlay_carries_less(world: World) -> Iterator[None]:
    node = _node(world, "MTU 1300")
    _must(world, node, "ip link set eth0 mtu 1300")
    try:
        yield
    finally:
        _must(world, node, "ip link set eth0 mtu 1500")


@breaks()
def the_tunnel_is_deleted(world: World) -> Iterator[None]:
    node = _node(world, "vxlan.calico is deleted")
    _must(world, node, "ip link del vxlan.calico")
    yield


@breaks()
def the_tunnel_is_down(world: World) -> Iterator[None]:
    node = _node(world, "vxlan.calico is down")
    _must(world, node, "ip link set vxlan.calico down")
    yield


@breaks("vxlan", "vni")
def the_tunnel_is_in_another_namespace(world: World) -> Iterator[None]:
    node = _node(world, "vxlan.calico is moved away")
    space = f"{world.lab.plan.prefix}pod-law"
    _run("ip", "netns", "add", space)
    try:
        _must(world, node, f"ip link set vxlan.calico netns {space}")
        yield
    finally:
        _run("ip", "netns", "del", space)


@breaks("4789", "vxlan", "vni")
def the_vni_is_taken(world: World) -> Iterator[None]:
    node = _node(world, "another device has VNI and port")
    add = f"ip link add {OTHERS_DEVICE} type vxlan id 4096 dstport 4789 dev eth0"
    with _stopped(world, node):
        _must(world, node, "ip link del vxlan.calico")
        _must(world, node, add)
    try:
        yield
    finally:
        _must(world, node, f"ip link del {OTHERS_DEVICE}")


@breaks("cali")
def a_pods_host_end_is_down(world: World) -> Iterator[None]:
    node = _node(world, "a pod's host end is down")
    device = world.chance.choice(_host_ends(world, node))
    _must(world, node, f"ip link set {device} down")
    try:
        yield
    finally:
        _must(world, node, f"ip link set {device} up")


@breaks("cali")
def a_pods_host_end_has_another_name(world: World) -> Iterator[None]:
    node = _node(world, "a pod's host end is renamed")
    device = world.chance.choice(_host_ends(world, node))
    _rename(world, node, device, OTHERS_DEVICE)
    try:
        yield
    finally:
        _rename(world, node, OTHERS_DEVICE, device)


# -- routes and neighbours ---------------------------------------------------------------------------------------------


@breaks()
def all_routes_are_flushed(world: World) -> Iterator[None]:
    node = _node(world, "all of our routes go")
    for line in _must(world, node, "ip -4 route").splitlines():
        if not line.startswith("default") and "proto kernel" not in line:
            world.on(node, "ip", "route", "del", *line.replace("onlink", "").split())
    yield


@breaks("default", "next hop", "route")
def the_default_route_goes(world: World) -> Iterator[None]:
    node = _node(world, "the default route goes")
    _must(world, node, "ip route del default")
    try:
        yield
    finally:
        _must(world, node, "ip route add default via 172.26.0.1 dev eth0")


@breaks("static", "conflict", "another", "foreign", "somebody")
def a_foreign_route_stands_in_our_place(world: World) -> Iterator[None]:
    node = _node(world, "somebody's route to another's block")
    block = _block(world, _others(world, node))
    _must(world, node, f"ip route replace {block} via 172.26.0.1 dev eth0 proto static")
    try:
        yield
    finally:
        world.on(node, "ip", "route", "del", block, "proto", "static")


@breaks("static", "conflict", "another", "foreign", "somebody", "more specific")
def a_longer_foreign_route_leads_elsewhere(world: World) -> Iterator[None]:
    node = _node(world, "somebody's routes inside another's block")
    first, _, length = _block(world, _others(world, node)).partition("/")
    _must(world, node, f"ip route add {first}/{int(length) + 1} via 172.26.0.1 dev eth0 proto static")
    try:
        yield
    finally:
        world.on(node, "ip", "route", "del", f"{first}/{int(length) + 1}")


@breaks("rule")
def a_rule_leads_past_our_table(world: World) -> Iterator[None]:
    node = _node(world, "ip rule: another table first")
    _must(world, node, "ip route add blackhole default table 77")
    _must(world, node, "ip rule add to 192.168.0.0/16 lookup 77 priority 100")
    try:
        yield
    finally:
        _must(world, node, "ip rule del priority 100")
        _must(world, node, "ip route flush table 77")


@breaks()
def forwarding_entries_go(world: World) -> Iterator[None]:
    node = _node(world, "bridge fdb entries go")
    for line in world.on(node, "bridge", "fdb", "show", "dev", "vxlan.calico").stdout.splitlines():
        world.on(node, "bridge", "fdb", "del", line.split()[0], "dev", "vxlan.calico")
    yield


@breaks()
def neighbour_entries_go(world: World) -> Iterator[None]:
    node = _node(world, "neighbours of the tunnel go")
    _must(world, node, "ip neigh flush dev vxlan.calico nud permanent")
    yield


# -- the kernel's switches, nftables -----------------------------------------------------------------------------------


@breaks()
def forwarding_is_off(world: World) -> Iterator[None]:
    node = _node(world, "ip_forward 0")
    _must(world, node, "sysctl -qw net.ipv4.ip_forward=0")
    yield


@breaks()
def a_pods_interface_forwards_no_more(world: World) -> Iterator[None]:
    node = _node(world, "conf.cali*.forwarding 0")
    device = world.chance.choice(_host_ends(world, node))
    _must(world, node, f"sysctl -qw net.ipv4.conf.{device}.forwarding=0")
    yield


@breaks()
def a_pods_interface_answers_no_arp(world: World) -> Iterator[None]:
    node = _node(world, "proxy_arp 0")
    for device in _host_ends(world, node):
        _must(world, node, f"sysctl -qw net.ipv4.conf.{device}.proxy_arp=0")
    yield


@breaks("forwarding")
def the_underlay_forwards_no_more(world: World) -> Iterator[None]:
    node = _node(world, "conf.eth0.forwarding 0")
    _must(world, node, "sysctl -qw net.ipv4.conf.eth0.forwarding=0")
    _must(world, node, "sysctl -qw net.ipv4.conf.vxlan/calico.forwarding=0")
    try:
        yield
    finally:
        _must(world, node, "sysctl -qw net.ipv4.conf.eth0.forwarding=1")
        world.on(node, "sysctl", "-qw", "net.ipv4.conf.vxlan/calico.forwarding=1")


@breaks("rp_filter")
def the_reverse_path_is_strict(world: World) -> Iterator[None]:
    node = _node(world, "rp_filter 1")
    for name in ("all", "eth0", "vxlan/calico"):
        _must(world, node, f"sysctl -qw net.ipv4.conf.{name}.rp_filter=1")
    try:
        yield
    finally:
        for name in ("all", "eth0", "vxlan/calico"):
            world.on(node, "sysctl", "-qw", f"net.ipv4.conf.{name}.rp_filter=0")


@breaks()
def the_ruleset_is_flushed(world: World) -> Iterator[None]:
    node = _node(world, "nft flush ruleset")
    _must(world, node, "nft flush ruleset")
    yield


@breaks("forward", "nftables", "drop")
def somebodys_chain_drops_what_is_forwarded(world: World) -> Iterator[None]:
    node = _node(world, "a forward chain with policy drop")
    _must(world, node, "nft add table inet law")
    _must(world, node, "nft add chain inet law f { type filter hook forward priority 0 ; policy drop ; }")
    try:
        yield
    finally:
        _must(world, node, "nft delete table inet law")


# -- pools -------------------------------------------------------------------------------------------------------------


@breaks("pool")
def the_pool_is_deleted(world: World) -> Iterator[None]:
    with _changed(world, DEFAULT_POOL, None):
        yield


@breaks("pool")
def the_pool_is_disabled(world: World) -> Iterator[None]:
    with _changed(world, DEFAULT_POOL, {"disabled": True}):
        yield


@breaks("pool")
def the_pool_selects_no_node(world: World) -> Iterator[None]:
    with _changed(world, DEFAULT_POOL, {"nodeSelector": "!all()"}):
        yield


@breaks("ippools", "pool")
def the_pool_cannot_be_read(world: World) -> Iterator[None]:
    with _changed(world, DEFAULT_POOL, {"cidr": "192.168.0.0/banana"}):
        yield


@breaks()
def the_pool_has_no_encapsulation(world: World) -> Iterator[None]:
    with _changed(world, DEFAULT_POOL, {"vxlanMode": "Never", "ipipMode": "Never"}):
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
    node = _node(world, "the Node is deleted")
    with _changed(world, f"/calico/resources/v3/projectcalico.org/nodes/{node.name}", None):
        yield


@breaks("nodes/")
def a_nodes_record_cannot_be_read(world: World) -> Iterator[None]:
    node = _node(world, "the Node is junk")
    key = f"/calico/resources/v3/projectcalico.org/nodes/{node.name}"
    before = world.etcdctl("get", "--print-value-only", key)
    world.put(key, b"{")
    try:
        yield
    finally:
        world.put(key, before.rstrip(b"\n"))


@breaks("block", "address")
def a_block_goes(world: World) -> Iterator[None]:
    node = _node(world, "a block is deleted")
    name = _block(world, node).replace("/", "-")
    with _changed(world, f"/calico/ipam/v2/assignment/ipv4/block/{name}", None):
        yield


@breaks("block", "claim", "affinit")
def a_claim_goes(world: World) -> Iterator[None]:
    node = _node(world, "a block's affinity is deleted")
    name = _block(world, node).replace("/", "-")
    with _changed(world, f"/calico/ipam/v2/host/{node.name}/ipv4/block/{name}", None):
        yield


# -- peers -------------------------------------------------------------------------------------------------------------


@breaks()
def an_agent_is_away(world: World) -> Iterator[None]:
    node = _node(world, "the agent is killed")
    lab_processes.stop_agent(node, signal.SIGKILL)
    try:
        yield
    finally:
        lab_processes.start_agents([node])


@breaks()
def an_agent_hangs(world: World) -> Iterator[None]:
    node = _node(world, "the agent is frozen")
    with _stopped(world, node):
        yield


@breaks("peer", "block", "route", "mesh")
def there_is_no_mesh(world: World) -> Iterator[None]:
    world.say("nodeToNodeMeshEnabled false")
    with _resource(world, "bgpconfigurations", "default", {"nodeToNodeMeshEnabled": False}):
        yield


@breaks("peer", "refused", "filter")
def a_filter_rejects_everything(world: World) -> Iterator[None]:
    world.say("a BGPFilter rejects all")
    rule = {"action": "Reject", "matchOperator": "In", "cidr": "0.0.0.0/0"}
    filtered = {"importV4": [rule], "exportV4": [rule]}
    peer = {"peerSelector": "all()", "filters": ["law"]}
    with _resource(world, "bgpfilters", "law", filtered), _resource(world, "bgppeers", "law", peer):
        yield


@breaks("peer", "bgp")
def bgp_is_dropped_on_its_way(world: World) -> Iterator[None]:
    node = _node(world, "nft drops TCP 179")
    _must(world, node, "nft add table inet law")
    _must(world, node, "nft add chain inet law i { type filter hook input priority 0 ; policy accept ; }")
    _must(world, node, "nft add rule inet law i tcp dport 179 drop")
    _must(world, node, "nft add rule inet law i tcp sport 179 drop")
    try:
        yield
    finally:
        _must(world, node, "nft delete table inet law")


# -- how it is done ----------------------------------------------------------------------------------------------------


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


def _rename(world: World, node: LabNode, old: str, new: str) -> None:
    for words in (f"ip link set {old} down", f"ip link set {old} name {new}", f"ip link set {new} up"):
        _must(world, node, words)


@contextmanager
def _stopped(world: World, node: LabNode) -> Iterator[None]:
    """Its agent does not run meanwhile."""
    pid = world.agent_pids()[node.name]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def _changed(world: World, key: str, spec: dict[str, object] | None) -> Iterator[None]:
    """A stored value with other fields in its spec, or (None) gone; then as it was."""
    world.say(f"{key}: {spec}")
    before = world.etcdctl("get", "--print-value-only", key).rstrip(b"\n")
    if spec is None:
        world.etcdctl("del", key)
    else:
        value = json.loads(before)
        world.put(key, json.dumps({**value, "spec": {**value["spec"], **spec}}).encode())
    try:
        yield
    finally:
        world.put(key, before)


@contextmanager
def _resource(world: World, plural: str, name: str, spec: dict[str, object]) -> Iterator[None]:
    """A resource that is there meanwhile, as calicoctl stores it."""
    key = f"/calico/resources/v3/projectcalico.org/{plural}/{name}"
    kind = KINDS[plural]
    document = {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": spec}
    world.put(key, json.dumps(document).encode())
    try:
        yield
    finally:
        world.etcdctl("del", key)
