"""Inputs of peering for tests, from a few words."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import msgspec

from agent.datastore.resources.bgp_types import BGPConfigurationSpec, BGPPeerSpec
from agent.datastore.resources.resource_types import Metadata, Node, NodeBGPSpec, NodeSpec
from agent.peering.peers import DesiredPeer, DesiredPeers, PeeringInputs, desired_peers
from ipam.model import NodeName

SECRET = {"secretKeyRef": {"name": "bgp", "key": "k"}}


def node(name: str, v4: str = "", v6: str = "", labels: str = "", **bgp: Any) -> Node:
    return Node(
        metadata=Metadata(name=name, labels=dict.fromkeys(labels.split(), "")),
        spec=NodeSpec(bgp=NodeBGPSpec(ipv4_address=v4 and f"{v4}/24", ipv6_address=v6 and f"{v6}/64", **bgp)),
    )


A = node("a", "10.0.0.1", "fd00::1", "rack1")
B = node("b", "10.0.0.2", "fd00::2", "rack1")
C = node("c", "10.0.0.3", labels="rack2")
REFLECTOR = node("r", "10.0.0.9", labels="rr", route_reflector_cluster_id="1.0.0.1")
TWIN = node("t", "10.0.0.8", labels="rr", route_reflector_cluster_id="1.0.0.1")


def inputs(
    *nodes: Node,
    me: str = "a",
    peers: dict[str, dict[str, Any]] | None = None,
    configured: dict[str, dict[str, Any]] | None = None,
    **more: Any,
) -> PeeringInputs:
    return PeeringInputs(
        me=NodeName(me),
        nodes={NodeName(one.metadata.name): one for one in nodes},
        settings={
            name: msgspec.convert(spec, BGPConfigurationSpec) for name, spec in (configured or {}).items()
        },
        peers={name: msgspec.convert(spec, BGPPeerSpec) for name, spec in (peers or {}).items()},
        **more,
    )


NO_MESH = {"default": {"nodeToNodeMeshEnabled": False}}
TOR = {"peerIP": "10.0.0.254", "asNumber": 65001}


def one(found: DesiredPeers, address: str = "10.0.0.254") -> DesiredPeer:
    return found.peers[ip_address(address)]


def addresses(found: DesiredPeers) -> list[str]:
    return sorted(map(str, found.peers))


def peer_config(given: PeeringInputs, address: str = "10.0.0.254") -> Any:
    return one(desired_peers(given), address).config


def with_tor(**spec: Any) -> PeeringInputs:
    return inputs(A, B, peers={"tor": {**TOR, **spec}}, configured=NO_MESH)
