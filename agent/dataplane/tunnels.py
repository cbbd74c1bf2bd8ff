"""Facts to tunnel devices, VTEP neighbours and forwarding entries.

Promises: pure; a device is wished as long as any pool uses its encapsulation, disabled pools included, because their
pods still live. Rules: Calico's IPIP and VXLAN drivers (VNI 4096, UDP 4789, overheads 20 and 50).
Does not know: routes, whether the kernel has the features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from ipaddress import IPv4Address

from agent.dataplane.facts import IPIP_OVERHEAD, SMALLEST_MTU, VXLAN_OVERHEAD, Facts, NodeAddresses
from agent.dataplane.objects import TUNL0, VXLAN_DEVICE, FdbEntry, Neighbour, Tunnel, TunnelKind
from ipam.model import EncapsulationMode, NodeName, Pool

VNI = 4096
PORT = 4789


def uses_ipip(pools: tuple[Pool, ...]) -> bool:
    """Whether any pool's traffic may go through tunl0."""
    return any(pool.ipip is not EncapsulationMode.NEVER for pool in pools)


def uses_vxlan(pools: tuple[Pool, ...]) -> bool:
    """Whether any IPv4 pool's traffic may go through vxlan.calico."""
    return any(pool.vxlan is not EncapsulationMode.NEVER and pool.cidr.version == 4 for pool in pools)


def vtep_mac(node: NodeName) -> str:
    """A node's VTEP address: 0x66 and five bytes of SHA1 of its name, so every node can compute it."""
    digest = hashlib.sha1(node.encode(), usedforsecurity=False).digest()
    return ":".join(f"{octet:02x}" for octet in (0x66, *digest[:5]))


def tunnel_mtu(underlay: int, overhead: int) -> int:
    """What is left for the packet inside."""
    return max(underlay - overhead, SMALLEST_MTU)


def pod_mtu(facts: Facts) -> int | None:
    """The MTU a new pod gets: the smallest that any encapsulation in use leaves; None before the underlay is known."""
    if facts.parent is None:
        return None
    overhead = VXLAN_OVERHEAD if uses_vxlan(facts.pools) else IPIP_OVERHEAD if uses_ipip(facts.pools) else 0
    return tunnel_mtu(facts.parent.mtu, overhead)


def tunnels(facts: Facts) -> dict[str, Tunnel]:
    """The tunnel devices this node should have."""
    me, parent = facts.me, facts.parent
    if me is None or parent is None:
        return {}
    found: dict[str, Tunnel] = {}
    if uses_ipip(facts.pools):
        mtu = tunnel_mtu(parent.mtu, IPIP_OVERHEAD)
        found[TUNL0] = Tunnel(TUNL0, TunnelKind.IPIP, mtu, me.ipip)
    if uses_vxlan(facts.pools):
        found[VXLAN_DEVICE] = Tunnel(
            VXLAN_DEVICE,
            TunnelKind.VXLAN,
            tunnel_mtu(parent.mtu, VXLAN_OVERHEAD),
            me.vxlan,
            vni=VNI,
            port=PORT,
            parent=parent.name,
            local=me.underlay.ip,
            mac=(me.vxlan_mac or vtep_mac(facts.node)).lower(),
        )
    return found


def neighbours(facts: Facts) -> dict[tuple[str, IPv4Address], Neighbour]:
    """A permanent ARP entry per other node: its VTEP's address is at its VTEP's MAC."""
    return {(VXLAN_DEVICE, vtep): Neighbour(VXLAN_DEVICE, vtep, mac) for vtep, mac, _ in _remote_vteps(facts)}


def fdb(facts: Facts) -> dict[tuple[str, str], FdbEntry]:
    """A permanent forwarding entry per other node: its VTEP's MAC is behind its underlay address."""
    return {
        (VXLAN_DEVICE, mac): FdbEntry(VXLAN_DEVICE, mac, node.underlay.ip)
        for _, mac, node in _remote_vteps(facts)
    }


def _remote_vteps(facts: Facts) -> Iterator[tuple[IPv4Address, str, NodeAddresses]]:
    if facts.me is None or not uses_vxlan(facts.pools):
        return
    for name, node in facts.nodes.items():
        if name != facts.node and node.vxlan is not None:
            yield node.vxlan, (node.vxlan_mac or vtep_mac(name)).lower(), node
