"""What a lab consists of: names, addresses, files. The same plan always gives the same lab.

Promises: pure; topology.json, a file of this package, is read and checked once, when this is imported. Every name
starts with the lab's own prefix, so several labs stand side by side and a killed one can be found and removed by name.
Does not know: how a namespace is made or a process started.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path("/run/tortie-lab")
NAME = re.compile(r"[a-z][a-z0-9]{0,11}")
POD_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")
MOST_NODES = 200
POOL6: dict[str, Any] = {
    "kind": "IPPool",
    "apiVersion": "projectcalico.org/v3",
    "metadata": {"name": "default-ipv6-ippool"},
    "spec": {"cidr": "fd10:244::/64", "blockSize": 122, "natOutgoing": True, "nodeSelector": "all()"},
}
"""What `--dual-stack` adds."""
NETWORK = "k8s-pod-network"


class UnderlaySegment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One layer 2 network of the underlay."""

    ipv4: str
    ipv6: str


class Topology(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The form of topology.json, by which virtual machines (`vagrant/`) are made as well.

    An address of a segment is its first one plus an offset.
    """

    segments: list[UnderlaySegment]
    first_node_offset: int
    router_offset: int
    etcd_port: int
    virtual_machines: int
    router_as: int


TOPOLOGY = msgspec.json.decode((Path(__file__).parent / "topology.json").read_bytes(), type=Topology)
SUBNETS = tuple(IPv4Network(segment.ipv4) for segment in TOPOLOGY.segments)
"""The IPv4 networks of the fabric's two segments; the second segment is used by crosssubnet labs only."""
SUBNETS6 = tuple(IPv6Network(segment.ipv6) for segment in TOPOLOGY.segments)
"""The IPv6 networks of the fabric's two segments."""


class Mode(Enum):
    """How pods of different nodes reach each other, as the lab's words have it."""

    NONE = "none"
    VXLAN = "vxlan"
    IPIP = "ipip"
    CROSS_SUBNET = "crosssubnet"


class LabError(Exception):
    """One sentence: what is wrong, where, and what to do."""


@dataclass(frozen=True, slots=True)
class LabNode:
    """One machine of the lab: a network namespace with one agent."""

    name: str
    namespace: str
    interface: IPv4Interface
    segment: int
    directory: Path

    @property
    def lab(self) -> str:
        """The name of its lab."""
        return self.namespace.split("-")[1]

    @property
    def interface6(self) -> IPv6Interface:
        """The node's IPv6 address, with the host number of its IPv4 address."""
        offset = int(self.interface.ip) - int(SUBNETS[self.segment].network_address)
        subnet = SUBNETS6[self.segment]
        return IPv6Interface((int(subnet.network_address) + offset, subnet.prefixlen))

    @property
    def run(self) -> Path:
        """The agent's run directory."""
        return self.directory / "run"

    @property
    def environment(self) -> dict[str, str]:
        """What a command on this node needs to find its agent and its datastore."""
        return {
            "TORTIE_NODE_NAME": self.name,
            "TORTIE_NODE_MACHINE_ID": self.namespace,
            "TORTIE_PATHS_RUN": str(self.run),
            "TORTIE_PATHS_STATE": str(self.directory / "state"),
            "TORTIE_CNI_SOCKET": str(self.run / "cni.sock"),
            "TORTIE_STATE_DIR": str(self.directory / "state"),
            "TORTIE_ETCD_ENDPOINTS": etcd_endpoint(),
        }


@dataclass(frozen=True, slots=True)
class LabPlan:
    """A whole lab."""

    name: str
    nodes: tuple[LabNode, ...]
    segments: tuple[IPv4Network, ...]
    dual_stack: bool = False
    """Pods have an IPv6 address, too; nodes always have one."""

    @property
    def prefix(self) -> str:
        """What every namespace of this lab starts with."""
        return f"tortie-{self.name}-"

    @property
    def fabric(self) -> str:
        """The namespace of the bridges, the router between them, and etcd."""
        return f"{self.prefix}fabric"

    @property
    def directory(self) -> Path:
        """Where the lab's files are."""
        return ROOT / self.name

    def node(self, name: str) -> LabNode:
        """A node by name. Raises LabError."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise LabError(
            f"lab {self.name} has no node {name!r}; it has {', '.join(node.name for node in self.nodes)}"
        )

    def pod_namespace(self, pod: str) -> str:
        """The namespace of a pod."""
        return f"{self.prefix}pod-{pod}"


def etcd_endpoint() -> str:
    """Where every node finds the lab's datastore."""
    return f"http://{gateway(SUBNETS[0])}:{TOPOLOGY.etcd_port}"


def gateway(segment: IPv4Network) -> IPv4Address:
    """The fabric's own address on a segment."""
    return segment.network_address + TOPOLOGY.router_offset


def gateway6(segment: int) -> IPv6Address:
    """The fabric's own IPv6 address on the segment of this number."""
    return SUBNETS6[segment].network_address + TOPOLOGY.router_offset


def plan(name: str, nodes: int, mode: Mode, *, dual_stack: bool = False) -> LabPlan:
    """The lab of this name, size and mode. Raises LabError."""
    if not NAME.fullmatch(name):
        raise LabError(f"--name {name!r}: up to twelve lower-case letters and digits, a letter first")
    if not 1 <= nodes <= MOST_NODES:
        raise LabError(f"--nodes {nodes}: a lab has 1 to {MOST_NODES} nodes")
    segments = SUBNETS if mode is Mode.CROSS_SUBNET else SUBNETS[:1]
    made = []
    for number in range(1, nodes + 1):
        segment = (number - 1) % len(segments)
        address = segments[segment].network_address + TOPOLOGY.first_node_offset + number
        interface = IPv4Interface((int(address), segments[segment].prefixlen))
        node = f"node{number}"
        made.append(LabNode(node, f"tortie-{name}-{node}", interface, segment, ROOT / name / node))
    return LabPlan(name, tuple(made), segments, dual_stack)


def with_mode(pool: dict[str, Any], mode: Mode, *, ipip: bool) -> dict[str, Any]:
    """The pool document in another mode; everything else stays. Cross-subnet is IPIP where the kernel has it."""
    always = {Mode.NONE: "Never", Mode.CROSS_SUBNET: "CrossSubnet"}.get(mode, "Always")
    use_ipip = mode is Mode.IPIP or (mode is Mode.CROSS_SUBNET and ipip)
    use_vxlan = mode is Mode.VXLAN or (mode is Mode.CROSS_SUBNET and not ipip)
    if "items" not in pool and ":" in pool["spec"]["cidr"]:
        use_ipip = False  # it carries IPv4 only
    changed = {"ipipMode": always if use_ipip else "Never", "vxlanMode": always if use_vxlan else "Never"}
    if "items" in pool:
        return {**pool, "items": [with_mode(item, mode, ipip=ipip) for item in pool["items"]]}
    return {**pool, "spec": {**pool["spec"], **changed}}
