"""A whole resource of each kind that a person writes, with another value for one of its fields."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Example:
    """One kind."""

    kind: str
    name: str
    spec: dict[str, Any]
    other: dict[str, Any]
    """Fields of `spec` with another value."""
    change: str
    """What a dry run says of that."""
    labels: bool = True

    def document(self, spec: dict[str, Any] | None = None) -> dict[str, Any]:
        """As a person writes it."""
        metadata: dict[str, Any] = {"name": self.name}
        if self.labels:
            metadata |= {"labels": {"rack": "r1"}, "annotations": {"example.org/why": "a test: it is so"}}
        return {
            "apiVersion": "projectcalico.org/v3",
            "kind": self.kind,
            "metadata": metadata,
            "spec": {**self.spec, **(spec or {})},
        }

    def text(self, spec: dict[str, Any] | None = None) -> str:
        """The document as JSON."""
        return json.dumps(self.document(spec))


EXAMPLES = [
    Example(
        "IPPool",
        "pool",
        {"cidr": "10.0.0.0/16", "blockSize": 27, "vxlanMode": "CrossSubnet", "nodeSelector": 'rack == "r1"'},
        {"natOutgoing": True},
        "spec.natOutgoing: (none) -> true",
    ),
    Example(
        "BGPConfiguration",
        "default",
        {"asNumber": 65000, "prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["65000:10"]}]},
        {"asNumber": 65001},
        "spec.asNumber: 65000 -> 65001",
    ),
    Example(
        "BGPPeer",
        "tor",
        {
            "peerIP": "[fd00::9]:1790",
            "asNumber": 65001,
            "password": {"secretKeyRef": {"name": "a", "key": "b"}},
        },
        {"password": None, "filters": ["f"]},
        'spec.password: {"secretKeyRef": {"name": "a", "key": "b"}} -> (none)',
    ),
    Example(
        "BGPFilter",
        "f",
        {"exportV4": [{"action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "In"}]},
        {"importV6": [{"action": "Reject"}]},
        'spec.importV6: (none) -> [{"action": "Reject"}]',
    ),
    Example(
        "Node",
        "n1",
        {
            "bgp": {"ipv4Address": "172.16.0.1/24", "asNumber": 64513, "ipv4IPIPTunnelAddr": "10.0.0.1"},
            "ipv4VXLANTunnelAddr": "10.0.0.2",
            "orchRefs": [{"orchestrator": "k8s", "nodeName": "n1"}],
            "wireguard": {"interfaceIPv4Address": "10.0.0.3"},
            "interfaces": [{"name": "eth0", "addresses": ["172.16.0.1"]}],
        },
        {"vxlanTunnelMACAddr": "66:00:00:00:00:01"},
        'spec.vxlanTunnelMACAddr: (none) -> "66:00:00:00:00:01"',
    ),
    Example(
        "IPReservation",
        "kept",
        {"reservedCIDRs": ["10.0.0.1/32", "10.0.1.0/24", "fd00::/126"]},
        {"reservedCIDRs": ["10.0.0.1/32"]},
        'spec.reservedCIDRs: ["10.0.0.1/32", "10.0.1.0/24", "fd00::/126"] -> ["10.0.0.1/32"]',
    ),
    Example(
        "IPAMConfiguration",
        "default",
        {
            "strictAffinity": True,
            "autoAllocateBlocks": True,
            "maxBlocksPerHost": 4,
            "ipCooldownSeconds": 30,
            "kubeVirtVMAddressPersistence": "Disabled",
        },
        {"maxBlocksPerHost": 5},
        "spec.maxBlocksPerHost: 4 -> 5",
        labels=False,
    ),
    Example(
        "BFDConfiguration",
        "rack",
        {
            "nodeSelector": 'rack == "r1"',
            "interfaces": [{"matchPattern": "eth*", "multiplier": 3}],
        },
        {"interfaces": [{"multiplier": 4}]},
        'spec.interfaces: [{"matchPattern": "eth*", "multiplier": 3}] -> [{"multiplier": 4}]',
    ),
]
