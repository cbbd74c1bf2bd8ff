"""One thing on a host that breaks and stays broken: addresses, links, routes, switches of the kernel.

What nobody on a node can see, a filter on a router between two of them, is none of these.
"""

from __future__ import annotations

from collections.abc import Iterator

from agent.lab import lab_processes
from tests.chaos.breaking import (
    OTHERS_DEVICE,
    another_node,
    block_of,
    breaks,
    host_ends,
    must,
    one_node,
    rename,
    run,
    stopped,
)
from tests.chaos.world import World

# -- addresses ---------------------------------------------------------------------------------------------------------


@breaks("address", "eth0")
def the_nodes_address_goes(world: World) -> Iterator[None]:
    node = one_node(world, "the address goes")
    must(world, node, f"ip addr del {node.interface} dev eth0")
    try:
        yield
    finally:
        must(world, node, f"ip addr add {node.interface} dev eth0")
        world.on(node, "ip", "route", "add", "default", "via", "172.26.0.1")


@breaks()
def a_virtual_address_comes_first(world: World) -> Iterator[None]:
    node = one_node(world, "a VIP")
    must(world, node, "ip addr add 172.26.15.250/20 dev eth0")
    try:
        yield
    finally:
        must(world, node, "ip addr del 172.26.15.250/20 dev eth0")


@breaks("address", "answers", "mac")
def another_machine_has_the_nodes_address(world: World) -> Iterator[None]:
    node = one_node(world, "another machine has the address")
    space = f"{world.lab.plan.prefix}pod-law"
    run("ip", "netns", "add", space)
    try:
        cable = f"ip link add {OTHERS_DEVICE} type veth peer name eth0 netns {space}"
        for words in (cable, f"ip link set {OTHERS_DEVICE} master br0", f"ip link set {OTHERS_DEVICE} up"):
            run(*lab_processes.inside(world.lab.plan.fabric, words.split()))
        for words in ("ip link set eth0 up", f"ip addr add {node.interface} dev eth0"):
            run(*lab_processes.inside(space, words.split()))
        for one in world.nodes:  # they ask anew, and hear both
            world.on(one, "ip", "neigh", "flush", "dev", "eth0")
        yield
    finally:
        run("ip", "netns", "del", space)
        for one in world.nodes:
            world.on(one, "ip", "neigh", "flush", "dev", "eth0")


@breaks("address", "prefix", "link", "next hop")
def the_prefix_is_a_hosts(world: World) -> Iterator[None]:
    node = one_node(world, "the address becomes a /32")
    must(world, node, f"ip addr del {node.interface} dev eth0")
    must(world, node, f"ip addr add {node.interface.ip}/32 dev eth0")
    try:
        yield
    finally:
        must(world, node, f"ip addr del {node.interface.ip}/32 dev eth0")
        must(world, node, f"ip addr add {node.interface} dev eth0")
        world.on(node, "ip", "route", "add", "default", "via", "172.26.0.1")


@breaks()
def the_tunnels_address_goes(world: World) -> Iterator[None]:
    node = one_node(world, "vxlan.calico loses its address")
    must(world, node, "ip addr flush dev vxlan.calico scope global")
    yield


# -- links -------------------------------------------------------------------------------------------------------------


@breaks("eth0", "address")
def the_interface_is_down(world: World) -> Iterator[None]:
    node = one_node(world, "eth0 down")
    must(world, node, "ip link set eth0 down")
    try:
        yield
    finally:
        must(world, node, "ip link set eth0 up")
        world.on(node, "ip", "route", "add", "default", "via", "172.26.0.1")


@breaks("eth0", "address", "carrier")
def the_cable_is_out(world: World) -> Iterator[None]:
    node = one_node(world, "no carrier")
    run(*lab_processes.inside(world.lab.plan.fabric, ["ip", "link", "set", node.name, "down"]))
    try:
        yield
    finally:
        run(*lab_processes.inside(world.lab.plan.fabric, ["ip", "link", "set", node.name, "up"]))


@breaks("eth0", "eth9", "address")
def the_interface_has_another_name(world: World) -> Iterator[None]:
    node = one_node(world, "eth0 is eth9")
    rename(world, node, "eth0", "eth9")
    try:
        yield
    finally:
        rename(world, node, "eth9", "eth0")
        world.on(node, "ip", "route", "add", "default", "via", "172.26.0.1")


@breaks("mtu")
def the_underlay_carries_less(world: World) -> Iterator[None]:
    node = one_node(world, "MTU 1300")
    must(world, node, "ip link set eth0 mtu 1300")
    try:
        yield
    finally:
        must(world, node, "ip link set eth0 mtu 1500")


@breaks()
def the_tunnel_is_deleted(world: World) -> Iterator[None]:
    node = one_node(world, "vxlan.calico is deleted")
    must(world, node, "ip link del vxlan.calico")
    yield


@breaks()
def the_tunnel_is_down(world: World) -> Iterator[None]:
    node = one_node(world, "vxlan.calico is down")
    must(world, node, "ip link set vxlan.calico down")
    yield


@breaks("vxlan", "vni")
def the_tunnel_is_in_another_namespace(world: World) -> Iterator[None]:
    node = one_node(world, "vxlan.calico is moved away")
    space = f"{world.lab.plan.prefix}pod-law"
    run("ip", "netns", "add", space)
    try:
        must(world, node, f"ip link set vxlan.calico netns {space}")
        yield
    finally:
        run("ip", "netns", "del", space)


@breaks("4789", "vxlan", "vni")
def the_vni_is_taken(world: World) -> Iterator[None]:
    node = one_node(world, "another device has VNI and port")
    add = f"ip link add {OTHERS_DEVICE} type vxlan id 4096 dstport 4789 dev eth0"
    with stopped(world, node):
        must(world, node, "ip link del vxlan.calico")
        must(world, node, add)
    try:
        yield
    finally:
        must(world, node, f"ip link del {OTHERS_DEVICE}")


@breaks("cali")
def a_pods_host_end_is_down(world: World) -> Iterator[None]:
    node = one_node(world, "a pod's host end is down")
    device = world.chance.choice(host_ends(world, node))
    must(world, node, f"ip link set {device} down")
    try:
        yield
    finally:
        must(world, node, f"ip link set {device} up")


@breaks("cali")
def a_pods_host_end_has_another_name(world: World) -> Iterator[None]:
    node = one_node(world, "a pod's host end is renamed")
    device = world.chance.choice(host_ends(world, node))
    rename(world, node, device, OTHERS_DEVICE)
    try:
        yield
    finally:
        rename(world, node, OTHERS_DEVICE, device)


# -- routes and neighbours ---------------------------------------------------------------------------------------------


@breaks()
def all_routes_are_flushed(world: World) -> Iterator[None]:
    node = one_node(world, "all of our routes go")
    for line in must(world, node, "ip -4 route").splitlines():
        if not line.startswith("default") and "proto kernel" not in line:
            world.on(node, "ip", "route", "del", *line.replace("onlink", "").split())
    yield


@breaks("default", "next hop", "route")
def the_default_route_goes(world: World) -> Iterator[None]:
    node = one_node(world, "the default route goes")
    must(world, node, "ip route del default")
    try:
        yield
    finally:
        must(world, node, "ip route add default via 172.26.0.1 dev eth0")


@breaks("static", "conflict", "another", "foreign", "somebody")
def a_foreign_route_stands_in_our_place(world: World) -> Iterator[None]:
    node = one_node(world, "somebody's route to another's block")
    block = block_of(world, another_node(world, node))
    must(world, node, f"ip route replace {block} via 172.26.0.1 dev eth0 proto static")
    try:
        yield
    finally:
        world.on(node, "ip", "route", "del", block, "proto", "static")


@breaks("static", "conflict", "another", "foreign", "somebody", "more specific")
def a_longer_foreign_route_leads_elsewhere(world: World) -> Iterator[None]:
    node = one_node(world, "somebody's routes inside another's block")
    first, _, length = block_of(world, another_node(world, node)).partition("/")
    must(world, node, f"ip route add {first}/{int(length) + 1} via 172.26.0.1 dev eth0 proto static")
    try:
        yield
    finally:
        world.on(node, "ip", "route", "del", f"{first}/{int(length) + 1}")


@breaks("rule")
def a_rule_leads_past_our_table(world: World) -> Iterator[None]:
    node = one_node(world, "ip rule: another table first")
    must(world, node, "ip route add blackhole default table 77")
    must(world, node, "ip rule add to 192.168.0.0/16 lookup 77 priority 100")
    try:
        yield
    finally:
        must(world, node, "ip rule del priority 100")
        must(world, node, "ip route flush table 77")


@breaks()
def forwarding_entries_go(world: World) -> Iterator[None]:
    node = one_node(world, "bridge fdb entries go")
    for line in world.on(node, "bridge", "fdb", "show", "dev", "vxlan.calico").stdout.splitlines():
        world.on(node, "bridge", "fdb", "del", line.split()[0], "dev", "vxlan.calico")
    yield


@breaks()
def neighbour_entries_go(world: World) -> Iterator[None]:
    node = one_node(world, "neighbours of the tunnel go")
    must(world, node, "ip neigh flush dev vxlan.calico nud permanent")
    yield


# -- the kernel's switches, nftables -----------------------------------------------------------------------------------


@breaks()
def forwarding_is_off(world: World) -> Iterator[None]:
    node = one_node(world, "ip_forward 0")
    must(world, node, "sysctl -qw net.ipv4.ip_forward=0")
    yield


@breaks()
def a_pods_interface_forwards_no_more(world: World) -> Iterator[None]:
    node = one_node(world, "conf.cali*.forwarding 0")
    device = world.chance.choice(host_ends(world, node))
    must(world, node, f"sysctl -qw net.ipv4.conf.{device}.forwarding=0")
    yield


@breaks()
def a_pods_interface_answers_no_arp(world: World) -> Iterator[None]:
    node = one_node(world, "proxy_arp 0")
    for device in host_ends(world, node):
        must(world, node, f"sysctl -qw net.ipv4.conf.{device}.proxy_arp=0")
    yield


@breaks("forwarding")
def the_underlay_forwards_no_more(world: World) -> Iterator[None]:
    node = one_node(world, "conf.eth0.forwarding 0")
    must(world, node, "sysctl -qw net.ipv4.conf.eth0.forwarding=0")
    must(world, node, "sysctl -qw net.ipv4.conf.vxlan/calico.forwarding=0")
    try:
        yield
    finally:
        must(world, node, "sysctl -qw net.ipv4.conf.eth0.forwarding=1")
        world.on(node, "sysctl", "-qw", "net.ipv4.conf.vxlan/calico.forwarding=1")


@breaks("rp_filter")
def the_reverse_path_is_strict(world: World) -> Iterator[None]:
    node = one_node(world, "rp_filter 1")
    for name in ("all", "eth0", "vxlan/calico"):
        must(world, node, f"sysctl -qw net.ipv4.conf.{name}.rp_filter=1")
    try:
        yield
    finally:
        for name in ("all", "eth0", "vxlan/calico"):
            world.on(node, "sysctl", "-qw", f"net.ipv4.conf.{name}.rp_filter=0")


@breaks()
def the_ruleset_is_flushed(world: World) -> Iterator[None]:
    node = one_node(world, "nft flush ruleset")
    must(world, node, "nft flush ruleset")
    yield


@breaks("forward", "nftables", "drop")
def somebodys_chain_drops_what_is_forwarded(world: World) -> Iterator[None]:
    node = one_node(world, "a forward chain with policy drop")
    must(world, node, "nft add table inet law")
    must(world, node, "nft add chain inet law f { type filter hook forward priority 0 ; policy drop ; }")
    try:
        yield
    finally:
        must(world, node, "nft delete table inet law")
