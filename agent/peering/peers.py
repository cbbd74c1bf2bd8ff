"""Facts to peers: what this node is as a BGP speaker, with which peers it should have sessions, and how.

Promises: pure; the same facts give the same peers, so a change of facts changes only the sessions it is about. Peers
are generated as Calico's confd does: the node-to-node mesh, BGPPeers by node, selector or for all, and their reverse
sides; a peering that is written goes before its reverse, and both before the mesh. A peering that cannot be made as it
is written (a password that cannot be read) is not made at all, and `troubles` says why.
Does not know: sessions, sockets, where passwords are stored, what is advertised.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_address

import msgspec

from agent.datastore.resources.bgp_parsing import PeerAddress, peer_address, seconds
from agent.datastore.resources.bgp_types import DEFAULT_PORT, BGPConfigurationSpec, BGPPeerSpec, Password
from agent.datastore.resources.resource_types import Node
from agent.datastore.resources.validation import NODE_PREFIX
from agent.peering.uplink_peers import SecretRef, UplinkPeer, uplink_config
from bgp.peer_config import (
    MAXIMUM_PREFIXES,
    MAXIMUM_TOTAL_OCTETS,
    USUAL_MULTIPATH,
    Multipath,
    NextHopMode,
    PeerConfig,
    SpeakerConfig,
)
from bgp.wire.families import Address, Family, family_of
from ipam.address_text import text_of
from ipam.model import NodeName
from ipam.selector import parse

ANYWHERE: dict[int, Address] = {4: IPv4Address("0.0.0.0"), 6: IPv6Address("::")}
LARGEST_UNICAST = 223
"""An IPv4 address whose first octet is greater is no host's."""


class PeerKind(Enum):
    """Which rule makes a peer, in calicoctl's words."""

    MESH = "node-to-node mesh"
    NODE = "node specific"
    GLOBAL = "global"
    UPLINK = "uplink"
    """Ours alone: found on the wire."""


@dataclass(frozen=True, slots=True)
class PeeringInputs:
    """Everything that the peers follow from."""

    me: NodeName
    nodes: Mapping[NodeName, Node]
    settings: Mapping[str, BGPConfigurationSpec] = field(default_factory=dict)
    """BGPConfigurations by name."""
    peers: Mapping[str, BGPPeerSpec] = field(default_factory=dict)
    """BGPPeers by name."""
    passwords: Mapping[SecretRef, str] = field(default_factory=dict, repr=False)
    unreadable: Mapping[SecretRef, str] = field(default_factory=dict)
    """Secrets that could not be read, and why."""
    hold_seconds: int = 90
    long_lived_stale_seconds: int = 0
    enforce_first_as: bool = False
    mesh_ttl_security: bool = False
    """TTL 255 is demanded of nodes of the mesh that say that they send it, and are on our subnet."""
    mesh_maximum_prefixes: int = 10_000
    maximum_prefixes: int = MAXIMUM_PREFIXES
    """Of a peer that is none of the mesh."""
    maximum_octets: int = MAXIMUM_TOTAL_OCTETS
    """Of all peers together."""
    bfd_mesh: bool = False
    """Whether there is a BFD session with each node of the mesh."""
    bfd_peers: frozenset[str] = frozenset()
    """BGPPeers with one, whatever they say themselves."""
    multipath: Multipath = USUAL_MULTIPATH
    """Which paths are used side by side."""
    paths_sent: int = 1
    """Paths to a prefix that an internal peer is sent, if it takes several (RFC 7911)."""
    paths_sent_to: Mapping[Address, int] = field(default_factory=dict)
    """The same for single peers, whatever they are."""
    uplinks: tuple[UplinkPeer, ...] = ()
    """Routers found on this node's uplinks."""

    @property
    def cluster(self) -> BGPConfigurationSpec:
        """The cluster-wide settings."""
        return self.settings.get("default", BGPConfigurationSpec())

    def asn(self, node: NodeName) -> int:
        """A node's AS number: its own, else the cluster's."""
        own = self.nodes[node].bgp.as_number
        return own if own is not None else self.cluster.default_as_number

    def port(self, node: NodeName) -> int:
        """The TCP port on which a node listens."""
        own = self.settings.get(f"{NODE_PREFIX}{node}")
        return (own.listen_port if own is not None else None) or self.cluster.listen_port or DEFAULT_PORT

    def address(self, node: NodeName, version: int) -> Address | None:
        """A node's address of a version of IP."""
        found = self.nodes[node].underlay(version)
        return found.ip if found is not None else None

    def why_no_ttl_security(self, node: NodeName, version: int) -> str:
        """Why TTL 255 cannot be demanded of a node of the mesh; empty: it can (RFC 5082).

        From behind a router nobody knows how many hops are right.
        """
        if not self.mesh_ttl_security:
            return "bgp.mesh_ttl_security is off"
        own, other = self.nodes[self.me].underlay(version), self.nodes[node].underlay(version)
        if own is None or other is None or own.ip not in other.network or other.ip not in own.network:
            return "it is on another subnet"
        return "" if self.nodes[node].sends_largest_ttl else "its agent does not say that it sends TTL 255"

    def reflector_cluster_id(self, node: NodeName) -> str | None:
        """The cluster id of a node that is a route reflector."""
        return self.nodes[node].bgp.route_reflector_cluster_id

    def selected(self, selector: str) -> list[NodeName]:
        """The nodes that a selector matches, by name."""
        matches = parse(selector).matches
        return [name for name, node in sorted(self.nodes.items()) if matches(node.metadata.labels or {})]

    def holder(self, address: Address) -> NodeName | None:
        """The node that has an address."""
        return next((name for name in self.nodes if self.address(name, address.version) == address), None)


@dataclass(frozen=True, slots=True)
class DesiredPeer:
    """One peer of this node."""

    config: PeerConfig
    kind: PeerKind
    resource: str = ""
    """The BGPPeer it comes from; empty for the mesh."""
    filters: tuple[str, ...] = ()
    """Names of BGPFilters, in order."""
    gateway: Address | None = None
    """The gateway to the peer (`reachableBy`)."""
    no_ttl_security: str = ""
    """Why TTL 255 is not demanded of a node of the mesh; empty: it is, or it is none."""
    bfd: bool = False
    """Whether a BFD session is wanted beside the BGP session, where there can be one."""


@dataclass(frozen=True, slots=True)
class DesiredPeers:
    """The peers by address, and a sentence for each that cannot be made."""

    peers: Mapping[Address, DesiredPeer]
    troubles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A peer as one rule asks for it, before its options are worked out."""

    at: PeerAddress
    asn: int
    kind: PeerKind
    node: NodeName | None
    """The node that is at this address."""
    resource: str
    spec: BGPPeerSpec


def identity(
    inputs: PeeringInputs, restart_seconds: int = 120, deferral_seconds: float = 60.0
) -> SpeakerConfig | None:
    """What this node is as a BGP speaker, and where it listens; None: the node has no address yet.

    The router id is the node's IPv4 address; a node without one takes Calico's hash of its name.
    """
    if inputs.me not in inputs.nodes:
        return None
    own = [found for version in (4, 6) if (found := inputs.address(inputs.me, version)) is not None]
    if not own:
        return None
    listen = own if inputs.cluster.bind_mode != "None" else [ANYWHERE[one.version] for one in own]
    return SpeakerConfig(
        asn=inputs.asn(inputs.me),
        router_id=own[0] if isinstance(own[0], IPv4Address) else hashed_router_id(inputs.me),
        listen_address=listen[0],
        second_address=listen[1] if len(listen) > 1 else None,
        port=inputs.port(inputs.me),
        restart_seconds=restart_seconds,
        deferral_seconds=deferral_seconds,
        cluster_id=cluster_id(inputs),
        maximum_octets=inputs.maximum_octets,
        maximum_paths=inputs.multipath.maximum_paths,
        multipath_as_relax=inputs.multipath.as_relax,
        link_bandwidth_weights=inputs.multipath.link_bandwidth,
    )


def hashed_router_id(name: NodeName) -> IPv4Address:
    """The router id that Calico makes of a node's name."""
    octets = bytearray(hashlib.sha256(name.encode()).digest()[:4])
    if octets[0] > LARGEST_UNICAST:
        octets[0] -= 32
    return IPv4Address(bytes(octets))


def cluster_id(inputs: PeeringInputs) -> IPv4Address | None:
    """The cluster id of this node as a route reflector; None when it is none, or its id cannot be read."""
    try:
        return IPv4Address(inputs.reflector_cluster_id(inputs.me) or "")
    except ValueError:
        return None


def desired_peers(inputs: PeeringInputs) -> DesiredPeers:
    """The peers of this node; of several rules for one address the first counts."""
    if inputs.me not in inputs.nodes:
        return DesiredPeers({})
    found: dict[Address, DesiredPeer] = {}
    troubles: list[str] = []
    for candidate in _candidates(inputs):
        address = candidate.at.address
        if address in found or address == inputs.address(inputs.me, address.version):
            continue
        try:
            peer = _peer(inputs, candidate)
        except ValueError as error:
            origin = f"BGPPeer {candidate.resource}" if candidate.resource else "BGPConfiguration default"
            troubles.append(f"{origin}: peer {address}: {error}")
            continue
        if peer is not None:
            found[address] = peer
    for name in sorted(inputs.bfd_peers - inputs.peers.keys()):
        troubles.append(f"bfd.peers: there is no BGPPeer {name}")
    for uplink in inputs.uplinks:
        if uplink.address not in found:
            try:
                found[uplink.address] = _uplink(inputs, uplink)
            except ValueError as error:
                troubles.append(f"{uplink.name}: router {uplink.address}: {error}")
    return DesiredPeers(found, tuple(troubles))


def _uplink(inputs: PeeringInputs, uplink: UplinkPeer) -> DesiredPeer:
    """A router that was found, as a peer. Raises ValueError: its password cannot be read."""
    config = uplink_config(
        uplink,
        inputs.asn(inputs.me),
        _secret(inputs, uplink.secret) if uplink.secret is not None else "",
        hold_seconds=inputs.hold_seconds,
        maximum_prefixes=inputs.maximum_prefixes,
        maximum_octets=inputs.maximum_octets // 2,
    )
    return DesiredPeer(config, PeerKind.UPLINK, filters=tuple(uplink.settings.filters))


def required_passwords(inputs: PeeringInputs) -> frozenset[SecretRef]:
    """The secrets that any peer may need; the caller reads them and gives their texts back as `passwords`."""
    passwords = [inputs.cluster.node_mesh_password, *(spec.password for spec in inputs.peers.values())]
    refs = [password.secret_key_ref for password in passwords if password is not None]
    of_uplinks = (one.secret for one in inputs.uplinks if one.secret is not None)
    return frozenset((*((ref.name, ref.key) for ref in refs if ref is not None), *of_uplinks))


def _candidates(inputs: PeeringInputs) -> Iterator[_Candidate]:
    """Candidates in the order of preference: written for all nodes, for some, reverse sides, the mesh."""
    some = {name: spec for name, spec in inputs.peers.items() if _is_for_some(spec)}
    for chosen in (inputs.peers.keys() - some.keys(), some.keys()):
        for name in sorted(chosen):
            if inputs.me in _local_side(inputs, inputs.peers[name]):
                yield from _written(inputs, name, inputs.peers[name])
    for name, spec in sorted(inputs.peers.items()):
        if spec.reverse_peering != "Manual":
            yield from _reversed(inputs, name, spec)
    yield from _mesh(inputs)


def _is_for_some(spec: BGPPeerSpec) -> bool:
    return spec.node is not None or spec.node_selector is not None


def _kind(spec: BGPPeerSpec) -> PeerKind:
    return PeerKind.NODE if _is_for_some(spec) else PeerKind.GLOBAL


def _local_side(inputs: PeeringInputs, spec: BGPPeerSpec) -> list[NodeName]:
    """The nodes that a BGPPeer is written for."""
    if spec.node is not None:
        return [NodeName(spec.node)] if spec.node in inputs.nodes else []
    return inputs.selected(spec.node_selector or "all()")


def _written(inputs: PeeringInputs, name: str, spec: BGPPeerSpec) -> Iterator[_Candidate]:
    if spec.peer_selector is not None:
        for other in inputs.selected(spec.peer_selector):
            yield from _node(inputs, other, (4, 6), _kind(spec), name, spec)
    elif spec.peer_ip is not None and spec.as_number is not None:
        at = peer_address(spec.peer_ip)
        node = _node_behind(inputs, at, spec.as_number)
        if node is not None and at.port is None:
            at = replace(at, port=inputs.port(node))
        yield _Candidate(at, spec.as_number, _kind(spec), node, name, spec)


def _node_behind(inputs: PeeringInputs, at: PeerAddress, asn: int) -> NodeName | None:
    """The node that is meant by an address, an AS number and perhaps a port."""
    node = inputs.holder(at.address)
    if node is None or inputs.asn(node) != asn or at.port not in (None, inputs.port(node)):
        return None
    return node


def _reversed(inputs: PeeringInputs, name: str, spec: BGPPeerSpec) -> Iterator[_Candidate]:
    """The peers by BGPPeers that name this node as the peer: their other side."""
    versions: tuple[int, ...] = (4, 6)
    if spec.peer_selector is not None:
        if inputs.me not in inputs.selected(spec.peer_selector):
            return
    elif spec.peer_ip is not None and spec.as_number is not None:
        at = peer_address(spec.peer_ip)
        if _node_behind(inputs, at, spec.as_number) != inputs.me:
            return
        versions = (at.address.version,)
    # The options hold for the other side, too; AS numbers and gateways are one side's own.
    mirrored = msgspec.structs.replace(spec, local_as_number=None, reachable_by=None)
    for node in _local_side(inputs, spec):
        yield from _node(inputs, node, versions, _kind(spec), name, mirrored, spec.local_as_number)


def _mesh(inputs: PeeringInputs) -> Iterator[_Candidate]:
    """The node-to-node mesh: every other node but route reflectors, whose peers are made by BGPPeers."""
    cluster = inputs.cluster
    if not cluster.has_mesh or inputs.reflector_cluster_id(inputs.me):
        return
    spec = BGPPeerSpec(
        password=cluster.node_mesh_password, max_restart_time=cluster.node_mesh_max_restart_time
    )
    for node in sorted(inputs.nodes):
        if not inputs.reflector_cluster_id(node):
            yield from _node(inputs, node, (4, 6), PeerKind.MESH, "", spec)


def _node(
    inputs: PeeringInputs,
    node: NodeName,
    versions: tuple[int, ...],
    kind: PeerKind,
    resource: str,
    spec: BGPPeerSpec,
    asn: int | None = None,
) -> Iterator[_Candidate]:
    """Another node as a peer, once per family that both have; `asn` is its number towards us, if not its own."""
    for version in versions if node != inputs.me else ():
        address = inputs.address(node, version)
        if address is not None:
            at = PeerAddress(address, inputs.port(node))
            yield _Candidate(at, asn or inputs.asn(node), kind, node, resource, spec)


def _peer(inputs: PeeringInputs, candidate: _Candidate) -> DesiredPeer | None:
    """The peer with all its options; None: this node has no address of its family. Raises ValueError."""
    spec, address = candidate.spec, candidate.at.address
    own = inputs.address(inputs.me, address.version)
    is_on_link = address.is_link_local and address.version == 6
    if own is None and not is_on_link:
        return None
    local_as = spec.local_as_number if spec.local_as_number != inputs.asn(inputs.me) else None
    unprotected, hops = "", spec.ttl_security or 0
    if candidate.kind is PeerKind.MESH and candidate.node is not None:
        unprotected = inputs.why_no_ttl_security(candidate.node, address.version)
        hops = 0 if unprotected else 1
    internal = candidate.asn == (local_as or inputs.asn(inputs.me))
    config = PeerConfig(
        address=address,
        asn=candidate.asn,
        port=candidate.at.port or DEFAULT_PORT,
        # Calico's rule, compared as text: else its nodes and ours could wait for each other.
        passive=candidate.node is not None and own is not None and text_of(address) > text_of(own),
        hold_seconds=inputs.hold_seconds,
        keepalive_seconds=seconds(spec.keepalive_time) if spec.keepalive_time else 0,
        # To a link-local address packets come from one of that link: the kernel knows it, and it may change.
        local_address=own if spec.source_address != "None" and not is_on_link else None,
        description=candidate.node or candidate.resource,
        route_reflector_client=internal and _is_client(inputs, candidate.node),
        password=_password(inputs, spec.password),
        ttl_security_hops=hops,
        local_as=local_as,
        allowed_local_as=spec.num_allowed_local_as_numbers or 0,
        next_hop_mode=_next_hop_mode(spec, internal=internal),
        restart_seconds=round(seconds(spec.max_restart_time)) if spec.max_restart_time else None,
        enforce_first_as=inputs.enforce_first_as,
        long_lived_stale_seconds=inputs.long_lived_stale_seconds,
        families=frozenset(Family) if is_on_link else frozenset({family_of(address)}),
        maximum_prefixes=(
            inputs.mesh_maximum_prefixes if candidate.kind is PeerKind.MESH else inputs.maximum_prefixes
        ),
        maximum_octets=inputs.maximum_octets // 2,
        paths_sent=inputs.paths_sent_to.get(address, inputs.paths_sent if internal else 1),
    )
    gateway = ip_address(spec.reachable_by) if spec.reachable_by else None
    filters = tuple(spec.filters or ())
    bfd = _has_bfd(inputs, candidate)
    return DesiredPeer(config, candidate.kind, candidate.resource, filters, gateway, unprotected, bfd)


def _has_bfd(inputs: PeeringInputs, candidate: _Candidate) -> bool:
    if candidate.kind is PeerKind.MESH:
        return inputs.bfd_mesh
    mode = candidate.spec.failure_detection_mode
    return mode == "BFDIfDirectlyConnected" or candidate.resource in inputs.bfd_peers


def _is_client(inputs: PeeringInputs, peer: NodeName | None) -> bool:
    """Whether a peer of our AS is a reflector client (RFC 4456): all are but reflectors of our own cluster."""
    own = inputs.reflector_cluster_id(inputs.me)
    return own is not None and (peer is None or inputs.reflector_cluster_id(peer) != own)


def _next_hop_mode(spec: BGPPeerSpec, *, internal: bool) -> NextHopMode:
    if spec.keep_original_next_hop:
        return NextHopMode.AUTO if internal else NextHopMode.KEEP
    return NextHopMode(spec.next_hop_mode or "Auto")


def _password(inputs: PeeringInputs, password: Password | None) -> str:
    """A password; empty where none is asked for. Raises ValueError: without its password a session must not come up."""
    if password is None or password.secret_key_ref is None:
        return ""
    ref = password.secret_key_ref.name, password.secret_key_ref.key
    if ref in inputs.passwords:
        return inputs.passwords[ref]
    if password.secret_key_ref.optional and ref not in inputs.unreadable:
        return ""
    return _secret(inputs, ref)


def _secret(inputs: PeeringInputs, ref: SecretRef) -> str:
    if ref in inputs.passwords:
        return inputs.passwords[ref]
    raise ValueError(inputs.unreadable.get(ref, f"the secret {ref[0]}/{ref[1]} does not exist"))
