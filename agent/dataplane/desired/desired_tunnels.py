"""Facts to tunnel devices, their MTUs and those of pods, VTEP neighbours and forwarding entries.

Promises: pure; a device is desired as long as any pool uses its encapsulation, disabled pools included, because their
pods still live. Rules: Calico's IPIP and VXLAN drivers (VNI 4096, UDP 4789, overheads 20, 50 and, outside IPv6, 70);
IPIP carries IPv4 only.
Does not know: routes, whether the kernel has the features; a pod that was given a smaller MTU on purpose from another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from agent.dataplane.inputs.facts import Facts, NodeAddresses, bears_no_subnet
from agent.dataplane.kernel.calico_names import TUNL0, VXLAN6_DEVICE, VXLAN_DEVICE, VXLAN_PORT
from agent.netlink.objects import Address, FdbEntry, Neighbour, Tunnel, TunnelKind
from ipam.model import EncapsulationMode, NodeName, Pool

IPIP_OVERHEAD = 20
VXLAN_OVERHEADS = {4: 50, 6: 70}
"""By the version of IP outside."""
SMALLEST_MTUS = {4: 576, 6: 1280}
"""RFC 791: every IPv4 host must take a datagram of this size; RFC 8200: a link below it does not carry IPv6."""
VNI = 4096
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
    """Octets that are left for the packet inside."""
    return max(underlay - overhead, SMALLEST_MTUS[version])


def tunnels(facts: Facts) -> dict[str, Tunnel]:
    """The tunnel devices this node should have."""
    me, underlay = facts.me, facts.underlay_mtu(4)
    if me is None:
        return {}
    found: dict[str, Tunnel] = {}
    if uses_ipip(facts.pools) and underlay is not None:
        mtu = tunnel_mtu(underlay, IPIP_OVERHEAD)
        found[TUNL0] = Tunnel(TUNL0, TunnelKind.IPIP, mtu, me.ipip, offload=facts.settings.tunnel_offload)
    for version in DEVICES:
        device = _vxlan(facts, me, version) if uses_vxlan(facts.pools, version) else None
        if device is not None:
            found[device.name] = device
    return found


def carried(facts: Facts) -> int | None:
    """Octets of the largest packet that gets to every other node by every encapsulation in use, of any version of IP.

    None before the underlay is known.
    """
    mtus = {version: facts.underlay_mtu(version) for version in DEVICES}
    used = (4, 6) if has_ipv6(facts) or mtus[4] is None else (4,)
    found = [mtu - overhead(facts, version) for version in used if (mtu := mtus[version]) is not None]
    return min(found) if found else None


def overhead(facts: Facts, version: int) -> int:
    """Octets that the encapsulations in use of a version of IP take of a packet."""
    if uses_vxlan(facts.pools, version):
        return VXLAN_OVERHEADS[version]
    return IPIP_OVERHEAD if version == 4 and uses_ipip(facts.pools) else 0


def pod_mtu(facts: Facts) -> int | None:
    """The MTU a new pod gets: what is carried, but not less than every host takes; None before that is known.

    Where pods have IPv6 that is 1280 octets (RFC 8200): on an interface of less the kernel has none.
    """
    found = carried(facts)
    return max(found, SMALLEST_MTUS[6 if has_ipv6(facts) else 4]) if found is not None else None


def has_ipv6(facts: Facts) -> bool:
    """Whether pods may have IPv6 addresses."""
    return any(pool.cidr.version == 6 for pool in facts.pools)


def oversized(facts: Facts) -> list[tuple[str, int, int]]:
    """The pods' interfaces whose packets can be too large: (interface, its MTU, what new pods get)."""
    fits = pod_mtu(facts)
    if fits is None:
        return []
    links = [facts.links[one.interface] for one in facts.endpoints if one.interface in facts.links]
    return [(link.name, link.mtu, fits) for link in links if link.mtu > fits]


def too_small_for_ipv6(facts: Facts) -> list[tuple[str, int]]:
    """The interfaces of pods with an IPv6 address that are too small for one: (interface, its MTU)."""
    endpoints = (one for one in facts.endpoints if any(address.version == 6 for address in one.addresses))
    links = (facts.links[one.interface] for one in endpoints if one.interface in facts.links)
    return [(link.name, link.mtu) for link in links if link.mtu < SMALLEST_MTUS[6]]


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
        port=VXLAN_PORT,
        # On lo or a dummy no packet leaves: such a device would send none. The route to the other node decides.
        parent=None if bears_no_subnet(parent) else parent.name,
        local=underlay.ip,
        mac=_mac(facts.node, me, version),
        offload=facts.settings.tunnel_offload,
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
