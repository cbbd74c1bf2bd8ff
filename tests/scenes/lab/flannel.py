"""A flannel beside a lab's agents, as its daemon and plugin make it: flannel.1, cni0, pods on it, and rules."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network

from agent.lab.fabric import make_namespace
from agent.lab.lab_plan import LabNode, LabPlan
from agent.lab.lab_processes import inside

IPTABLES = """\
*nat
:FLANNEL-POSTRTG - [0:0]
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s {own} -d {range} -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s {range} -d {own} -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG ! -s {range} -d {own} -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s {range} ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s {range} -d {range} -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
COMMIT
*filter
:FLANNEL-FWD - [0:0]
-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
-A FLANNEL-FWD -s {range} -m comment --comment "flanneld forward" -j ACCEPT
-A FLANNEL-FWD -d {range} -m comment --comment "flanneld forward" -j ACCEPT
COMMIT
"""
NFTABLES = """\
table ip flannel-ipv4 {{
  chain forward {{
    type filter hook forward priority 0; policy accept;
    ip saddr {range} accept
    ip daddr {range} accept
  }}
  chain postrtg {{
    type nat hook postrouting priority 100; policy accept;
    ip saddr {own} ip daddr {range} return
    ip saddr {range} ip daddr {own} return
    ip saddr {range} ip daddr != 224.0.0.0/4 masquerade fully-random
    ip saddr != {range} ip daddr {range} masquerade fully-random
  }}
}}
"""


def _run(node: LabNode, words: Sequence[str], text: str | None = None) -> None:
    subprocess.run(inside(node.namespace, words), check=True, input=text, text=True)


def _ip(node: LabNode, *lines: str) -> None:
    _run(node, ["ip", "-batch", "-"], "\n".join(lines) + "\n")


class Flannel:
    """Flannel's network on all nodes of a lab."""

    def __init__(self, plan: LabPlan, range_: IPv4Network) -> None:
        self.plan = plan
        self.range = range_
        self.own = dict(zip(plan.nodes, range_.subnets(new_prefix=24), strict=False))
        """Node -> the subnet that it leased."""

    def mac(self, node: LabNode) -> str:
        """Of its flannel.1."""
        return f"0e:f1:a0:00:00:{self.plan.nodes.index(node) + 1:02x}"

    def up(self, rules: Mapping[LabNode, str]) -> None:
        """What flanneld makes on each node, and cni0, which the plugin bridge makes."""
        for node, own in self.own.items():
            lines = [
                f"link add flannel.1 address {self.mac(node)} type vxlan id 1 dev eth0 dstport 8472 nolearning",
                f"addr add {own[0]}/32 dev flannel.1",
                "link set flannel.1 mtu 1450 up",
                "link add cni0 mtu 1450 type bridge",
                f"addr add {own[1]}/24 dev cni0",
                "link set cni0 up",
            ]
            for other, theirs in self.own.items():
                if other != node:
                    lines += [
                        f"neigh add {theirs[0]} lladdr {self.mac(other)} dev flannel.1 nud permanent",
                        f"route add {theirs} via {theirs[0]} dev flannel.1 onlink",
                    ]
            _ip(node, *lines)
            for other in self.own:
                if other != node:
                    entry = [
                        "bridge",
                        "fdb",
                        "append",
                        self.mac(other),
                        "dev",
                        "flannel.1",
                        "dst",
                        str(other.interface.ip),
                    ]
                    _run(node, entry)
            words = ["nft", "-f", "-"] if rules[node] is NFTABLES else ["iptables-nft-restore", "--noflush"]
            _run(node, words, rules[node].format(own=own, range=self.range))

    def add_pod(self, node: LabNode, name: str) -> str:
        """A pod on cni0: its address."""
        space, address = self.plan.pod_namespace(name), str(self.own[node][10])
        make_namespace(space)
        _ip(
            node,
            f"link add veth{name} mtu 1450 type veth peer name eth0 mtu 1450 netns {space}",
            f"link set veth{name} master cni0 up",
        )
        words = [
            f"addr add {address}/24 dev eth0",
            "link set eth0 up",
            f"route add default via {self.own[node][1]}",
        ]
        subprocess.run(
            inside(space, ["ip", "-batch", "-"]), check=True, input="\n".join(words) + "\n", text=True
        )
        return address
