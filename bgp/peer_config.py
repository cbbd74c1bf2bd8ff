"""The configuration of the speaker and of each peer, checked when made. Knows no files and no datastore."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from ipaddress import IPv4Address, IPv6Address

from bgp.policy.policy import Policy
from bgp.wire.capabilities import LONGEST_STALE_SECONDS
from bgp.wire.families import Address, Family
from bgp.wire.iana import PORT

LARGEST_AS = 0xFFFFFFFF
SHORTEST_HOLD_SECONDS = 3
"""RFC 4271 section 4.2: zero, or at least three."""
LONGEST_PASSWORD = 80
"""Octets of a TCP MD5 key (Linux, TCP_MD5SIG_MAXKEYLEN)."""
EVERYTHING = Policy()
MAXIMUM_PATHS = 16
"""Next hops of a prefix, unless it is configured otherwise: BIRD's default of `merge paths`, which Calico leaves."""
MOST_PATHS = 64
"""The most that may be configured."""
PATHS_SENT = 16
"""Paths of a prefix for a peer that takes several, where that is asked for: as many as are used side by side."""
MOST_PATHS_SENT = 64
"""The most of them that may be configured."""
MOST_HOPS = 254
MOST_LOCAL_AS = 255
MAXIMUM_PREFIXES = 250_000
"""Prefixes of a family that a peer may announce, unless it is configured otherwise.

What route reflectors of the largest clusters announce (5,000 nodes of twenty blocks each) two and a half times over,
and a quarter of the Internet's table, which a node's kernel has no use for. A whole agent needs 400 MiB for so many.
"""
MAXIMUM_OCTETS = 256 << 20
"""Memory that the paths of one peer may take, by estimate (`rib.held_paths`), whatever attributes they have."""
MAXIMUM_TOTAL_OCTETS = 512 << 20
"""Memory that the paths of all peers together may take; half of it may be one peer's."""
LONGEST_RESTART_SECONDS = 4095
"""RFC 4724 section 3: twelve bits."""
LARGEST_LIMIT = 1 << 48
"""Of prefixes or octets: more than any memory."""


class NextHopMode(Enum):
    """The next hop that a learned path is advertised with; what we originate always has our own."""

    AUTO = "Auto"
    """Ours to another AS, unchanged within ours (RFC 4271 section 5.1.3)."""
    SELF = "Self"
    KEEP = "Keep"


_BOUNDS = {
    "asn": ("AS number", 1, LARGEST_AS, " (RFC 7607 forbids 0)"),
    "local_as": ("AS number", 1, LARGEST_AS, " (RFC 7607 forbids 0)"),
    "port": ("port", 1, 65535, ""),
    "ttl_security_hops": ("TTL security hops", 0, MOST_HOPS, ""),
    "allowed_local_as": ("allowed local AS numbers", 0, MOST_LOCAL_AS, ""),
    "keepalive_seconds": ("keepalive time", 0, 0xFFFF, ""),
    "paths_sent": ("paths sent", 1, MOST_PATHS_SENT, ""),
    "maximum_paths": ("maximum of paths", 1, MOST_PATHS, " (1: the best path alone)"),
    "restart_seconds": ("restart time", 0, LONGEST_RESTART_SECONDS, " seconds"),
    "long_lived_stale_seconds": ("long-lived stale time", 0, LONGEST_STALE_SECONDS, " seconds"),
    "maximum_prefixes": ("maximum of prefixes", 0, LARGEST_LIMIT, " (0: no limit)"),
    "maximum_octets": ("maximum of octets", 0, LARGEST_LIMIT, " (0: no limit)"),
}
"""Field -> what it is called, its least and greatest value, and what the sentence adds. None is always allowed."""


def _check_bounds(config: PeerConfig | SpeakerConfig) -> None:
    for field_name, (what, least, most, behind) in _BOUNDS.items():
        number = getattr(config, field_name, None)
        if number is not None and not least <= number <= most:
            raise ValueError(f"{what} {number}: must be {least} to {most}{behind}")


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """One peer of the speaker."""

    address: Address
    asn: int | None
    """None: any but ours, as the peer's OPEN says it (FRR's `remote-as external`)."""
    port: int = PORT
    passive: bool = False
    """Wait for the peer to connect instead of connecting."""
    hold_seconds: int = 90
    keepalive_seconds: float = 0
    """Between our keepalives; 0, or more than a third of the hold time: that third."""
    local_address: Address | None = None
    """Source of our connections, and next hop of what we advertise; None: what the kernel takes."""
    description: str = ""
    route_reflector_client: bool = False
    """We reflect to it, and from it, what iBGP peers announce (RFC 4456)."""
    maximum_prefixes: int = MAXIMUM_PREFIXES
    """More than this of a family and the session ends (RFC 4271 section 6.7, RFC 4486); 0: no limit."""
    maximum_octets: int = MAXIMUM_OCTETS
    """More memory than this for all its paths and the session ends (RFC 4486); 0: no limit."""
    password: str = field(default="", repr=False)
    """TCP MD5 (RFC 2385); empty: none."""
    ttl_security_hops: int = 0
    """RFC 5082: packets from further away are dropped; 0: not checked."""
    local_as: int | None = None
    """Our AS number towards this peer, in place of the speaker's; it also decides whether the peer is internal."""
    allowed_local_as: int = 0
    """How often our own AS may be in the AS_PATH of what the peer announces."""
    enforce_first_as: bool = True
    """An external peer's paths begin with its AS, or are refused (RFC 4271 section 6.3); a route server's do not."""
    next_hop_mode: NextHopMode = NextHopMode.AUTO
    restart_seconds: int | None = None
    """How long this peer keeps our paths while we are away; None: as the speaker says."""
    long_lived_stale_seconds: int = 0
    """How long it is asked to keep our paths behind that, as the last choice (RFC 9494); 0: not at all."""
    families: frozenset[Family] = frozenset({Family.IPV4})
    """What is exchanged with it, whatever the family of its address (RFC 4760)."""
    shutdown: str | None = None
    """Disabled by a person, with the text that its operators read (RFC 9003): no session, no path; None: it is not."""
    link_local_address: IPv6Address | None = None
    """Ours on the link that we share with it, advertised beside an IPv6 next hop (RFC 2545); None: no such link."""
    paths_sent: int = 1
    """Paths to a prefix that it is advertised, the best first, if it takes several (RFC 7911); 1: the best alone."""
    policy: Policy = EVERYTHING
    """Import and export policy; without rules everything is accepted and advertised (RFC 8212 would have nothing)."""

    def is_internal(self, us: SpeakerConfig) -> bool:
        """Whether the peer is of our AS as it sees us (iBGP)."""
        return self.asn == (self.local_as or us.asn)

    def __post_init__(self) -> None:
        _check_bounds(self)
        if len(self.password.encode()) > LONGEST_PASSWORD:
            raise ValueError(f"password: must be at most {LONGEST_PASSWORD} octets (TCP MD5)")
        if self.hold_seconds and self.hold_seconds < SHORTEST_HOLD_SECONDS:
            raise ValueError(
                f"hold time {self.hold_seconds}: must be 0 or at least {SHORTEST_HOLD_SECONDS} seconds"
            )
        if not self.families:
            raise ValueError(f"peer {self.address}: must have at least one address family")


def same_peer(one: PeerConfig, other: PeerConfig) -> bool:
    """Whether both are one peer to which we are one speaker, so that paths may outlive the session."""
    return (one.address, one.asn, one.local_as) == (other.address, other.asn, other.local_as)


_CHANGEABLE = (
    *("description", "passive", "port", "maximum_prefixes", "maximum_octets", "next_hop_mode"),
    *("policy", "allowed_local_as", "keepalive_seconds", "ttl_security_hops", "enforce_first_as", "shutdown"),
    "paths_sent",
)
"""What may change under a session: it counts only for people, or from now on."""


def same_session(one: PeerConfig, other: PeerConfig) -> bool:
    """Whether a session negotiated under one may go on under the other."""
    alike = replace(one, **{name: getattr(other, name) for name in _CHANGEABLE}) == other
    return alike and (one.paths_sent > 1) is (other.paths_sent > 1)  # the OPEN says which


def changes_import(before: PeerConfig, after: PeerConfig) -> bool:
    """Whether the difference matters to which of the peer's paths are accepted."""
    return (
        before.policy.import_filter != after.policy.import_filter
        or before.policy.checks_claims is not after.policy.checks_claims
        or before.policy.import_rules != after.policy.import_rules
        or before.allowed_local_as != after.allowed_local_as
        or before.enforce_first_as is not after.enforce_first_as
    )


def changes_export(before: PeerConfig, after: PeerConfig) -> bool:
    """Whether the difference matters to what the peer is advertised."""
    return (
        before.next_hop_mode is not after.next_hop_mode
        or before.paths_sent != after.paths_sent
        or before.policy.export_rules != after.policy.export_rules
    )


@dataclass(frozen=True, slots=True)
class Multipath:
    """How many paths are used side by side, and which are equal enough."""

    maximum_paths: int = MAXIMUM_PATHS
    """Next hops of one prefix; 1: the best path alone."""
    as_relax: bool = True
    """AS_PATHs need the same length alone, as for BIRD; else external ones also the same neighbouring AS, and internal
    ones must be the same, as for FRR without `bestpath as-path multipath-relax`."""
    link_bandwidth: bool = False
    """Flows are shared by the paths' link bandwidth communities, where all of them have one."""


USUAL_MULTIPATH = Multipath()


@dataclass(frozen=True, slots=True)
class SpeakerConfig:
    """The configuration of the speaker itself."""

    asn: int
    router_id: IPv4Address
    listen_address: Address
    port: int = PORT
    restart_seconds: int = 120
    """How long peers keep our paths while we are away."""
    restarting: bool = False
    """Whether our forwarding state survived an earlier life (R and F bits, RFC 4724)."""
    deferral_seconds: float = 60.0
    """How long after the start `converged` may wait for peers."""
    cluster_id: IPv4Address | None = None
    """CLUSTER_ID of our cluster as route reflector; None: the router id (RFC 4456 section 7)."""
    maximum_octets: int = MAXIMUM_TOTAL_OCTETS
    """More memory than this for all paths of all peers and the peer that has most of it is left; 0: no limit."""
    second_address: Address | None = None
    """Listened on as well; that of the other family on a node that has both."""
    maximum_paths: int = MAXIMUM_PATHS
    """Next hops of a prefix that are used side by side; 1: the best path's alone."""
    multipath_as_relax: bool = True
    """As `Multipath.as_relax`."""
    link_bandwidth_weights: bool = False
    """As `Multipath.link_bandwidth`."""

    @property
    def multipath(self) -> Multipath:
        """Which paths are used side by side."""
        return Multipath(self.maximum_paths, self.multipath_as_relax, self.link_bandwidth_weights)

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Our own: listened on, and advertised as next hops where a session's own address is of the other family."""
        second = () if self.second_address is None else (self.second_address,)
        return (self.listen_address, *second)

    def __post_init__(self) -> None:
        _check_bounds(self)
        if int(self.router_id) == 0:
            raise ValueError("router id 0.0.0.0 is not allowed (RFC 6286)")
