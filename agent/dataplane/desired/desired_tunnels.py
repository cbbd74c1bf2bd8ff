"""Facts to tunnel devices, VTEP neighbours and forwarding entries.

Promises: pure; a device is wished as long as any pool uses its encapsulation, disabled pools included, because their
pods still live. Rules: Calico's IPIP and VXLAN drivers (VNI 4096, UDP 4789, overheads 20, 50 and, outside IPv6, 70);
IPIP carries IPv4 only.
Does not know: routes, whether the kernel has the features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from agent.dataplane.inputs.facts import (
    IPIP_OVERHEAD,
    SMALLEST_MTUS,
    VERSIONS,
    VXLAN_OVERHEADS,
    Facts,
    NodeAddresses,
)
from agent.netlink.objects import (
    TUNL0,
    VXLAN6_DEVICE,
    VXLAN_DEVICE,
    Address,
    FdbEntry,
    Neighbour,
    Tunnel,
    TunnelKind,
)
from ipam.model import EncapsulationMode, NodeName, Pool

VNI = 4096
PORT = 4789
DEVICES = {4: VXLAN_DEVICE, 6: VXLAN6_DEVICE}


def uses_ipip(pools: tuple[Pool, ...]) -> bool:
    """Whether any pool's traffic may go through tunl0."""
    return any(pool.ipip is not EncapsulationMode.NEVER for pool in pools)


def uses_vxlan(pools: tuple[Pool, ...], version: int = 4) -> bool:
    """Whether any pool's traffic may go through the VXLAN device of a version of IP."""
    return any(pool.vxlan is not EncapsulationMode.NEVER and pool.cidr.version == version for pool in pools)


def vtep_mac(node: NodeName, version: int = 4) -> str:
    """A node's VTEP address: 0x66 and five bytes of SHA1 of its name, so every node can compute it."""
    text = f"{node}-v6" if version == 6 else node
    digest = hashlib.sha1(text.encode(), usedforsecurity=False).digest()
    return ":".join(f"{octet:02x}" for octet in (0x66, *digest[:5]))


def tunnel_mtu(underlay: int, overhead: int, version: int = 4) -> int:
    """What is left for the packet inside."""
    return max(underlay - overhead, SMALLEST_MTUS[version])


def tunnels(facts: Facts) -> dict[str, Tunnel]:
    """The tunnel devices this node should have."""
    me, underlay = facts.me, facts.underlay_mtu(4)
    if me is None or underlay is None:
        return {}
    found: dict[str, Tunnel] = {}
    if uses_ipip(facts.pools):
        mtu = tunnel_mtu(underlay, IPIP_OVERHEAD)
        found[TUNL0] = Tunnel(TUNL0, TunnelKind.IPIP, mtu, me.ipip, offload=facts.tunnel_offload)
    for version in VERSIONS:
        device = _vxlan(facts, me, version) if uses_vxlan(facts.pools, version) else None
        if device is not None:
            found[device.name] = device
    return found


def _vxlan(facts: Facts, me: NodeAddresses, version: int) -> Tunnel | None:
    parent, underlay, mtu = facts.parent_of(version), me.on(version), facts.underlay_mtu(version)
    if parent is None or underlay is None or mtu is None:
        return None
    return Tunnel(
        DEVICES[version],
        TunnelKind.VXLAN,
        tunnel_mtu(mtu, VXLAN_OVERHEADS[version], version),
        me.vtep(version),
        vni=VNI,
        port=PORT,
        parent=parent.name,
        local=underlay.ip,
        mac=_mac(facts.node, me, version),
        offload=facts.tunnel_offload,
    )


def _mac(name: NodeName, node: NodeAddresses, version: int) -> str:
    published = node.vxlan6_mac if version == 6 else node.vxlan_mac
    return (published or vtep_mac(name, version)).lower()


def neighbours(facts: Facts) -> dict[tuple[str, Address], Neighbour]:
    """A permanent neighbour per other node: its VTEP's address is at its VTEP's MAC."""
    return {
        (device, vtep): Neighbour(device, vtep, mac)
        for version, device in DEVICES.items()
        for vtep, mac, _ in _remote_vteps(facts, version)
    }


def fdb(facts: Facts) -> dict[tuple[str, str], FdbEntry]:
    """A permanent forwarding entry per other node: its VTEP's MAC is behind its underlay address."""
    return {
        (device, mac): FdbEntry(device, mac, remote)
        for version, device in DEVICES.items()
        for _, mac, remote in _remote_vteps(facts, version)
    }


def _remote_vteps(facts: Facts, version: int) -> Iterator[tuple[Address, str, Address]]:
    """VTEP, its MAC, and the node it is on, of every other node."""
    if facts.me is None or not uses_vxlan(facts.pools, version):
        return
    for name, node in facts.nodes.items():
        vtep, underlay = node.vtep(version), node.on(version)
        if name != facts.node and vtep is not None and underlay is not None:
            yield vtep, _mac(name, node, version), underlay.ip
