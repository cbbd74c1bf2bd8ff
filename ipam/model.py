"""The values of address management: pools, blocks, affinities, handles, and who holds what.

Promises: every value is frozen and checks itself when made. Names follow Calico's (docs: blocks, affinities, handles).
Does not know: JSON, keys, etcd.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NewType

Prefix = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address
NodeName = NewType("NodeName", str)
HandleId = NewType("HandleId", str)

DEFAULT_BLOCK_LENGTH = {4: 26, 6: 122}
BLOCK_LENGTHS = {4: range(20, 33), 6: range(116, 129)}
DEFAULT_BLOCKS_PER_NODE = 20


class EncapsulationMode(Enum):
    """When a pool's traffic is encapsulated; the words are Calico's."""

    NEVER = "Never"
    ALWAYS = "Always"
    CROSS_SUBNET = "CrossSubnet"


class Use(Enum):
    """What addresses of a pool may be used for."""

    WORKLOAD = "Workload"
    TUNNEL = "Tunnel"
    LOAD_BALANCER = "LoadBalancer"


class AssignmentMode(Enum):
    """Whether a pool is used without being asked for by name."""

    AUTOMATIC = "Automatic"
    MANUAL = "Manual"


@dataclass(frozen=True, slots=True)
class Pool:
    """Addresses we may hand out, and how traffic to them travels (Calico's IPPool)."""

    name: str
    cidr: Prefix
    block_length: int
    ipip: EncapsulationMode = EncapsulationMode.NEVER
    vxlan: EncapsulationMode = EncapsulationMode.NEVER
    nat_outgoing: bool = False
    node_selector: str = "all()"
    namespace_selector: str = ""
    """Which namespaces' pods get addresses without asking for the pool by name; empty: all."""
    disabled: bool = False
    disable_bgp_export: bool = False
    assignment_mode: AssignmentMode = AssignmentMode.AUTOMATIC
    allowed_uses: frozenset[Use] = frozenset({Use.WORKLOAD, Use.TUNNEL})

    def __post_init__(self) -> None:
        if self.block_length not in BLOCK_LENGTHS[self.cidr.version]:
            raise ValueError(f"block length /{self.block_length} is outside the allowed range")
        if self.ipip is not EncapsulationMode.NEVER and self.vxlan is not EncapsulationMode.NEVER:
            raise ValueError("ipipMode and vxlanMode exclude each other")

    def __contains__(self, address: object) -> bool:
        """Whether the address lies in the pool."""
        return isinstance(address, IPv4Address | IPv6Address) and address in self.cidr


class AffinityState(Enum):
    """Calico's three states of a claim; only CONFIRMED counts for ownership and for announcing."""

    PENDING = "pending"
    CONFIRMED = "confirmed"
    PENDING_DELETION = "pendingDeletion"


@dataclass(frozen=True, slots=True)
class Affinity:
    """The claim of a node on a block."""

    block: Prefix
    node: NodeName
    state: AffinityState


@dataclass(frozen=True, slots=True)
class Attributes:
    """Who holds an allocation and why; `secondary` uses Calico's words: node, pod, namespace, type, timestamp."""

    handle: HandleId | None
    secondary: tuple[tuple[str, str], ...] = ()
    released_at: str | None = None
    """Set while the address cools down after its release (RFC 3339)."""
    other: str = ""
    """Fields we do not know, as JSON: written back as they are."""


@dataclass(frozen=True, slots=True)
class Block:
    """The aligned piece of a pool that one node routes, with every allocation in it."""

    cidr: Prefix
    owner: NodeName | None
    allocations: tuple[int | None, ...]
    """Ordinal -> index into `attributes`; None is free."""
    unallocated: tuple[int, ...]
    """FIFO of free ordinals: taken from the head, given back at the tail."""
    attributes: tuple[Attributes, ...] = ()
    sequence: int = 0
    """Raised by one with every write; starts at the creation time in ns, so a re-created block never repeats one."""
    sequence_of: tuple[tuple[int, int], ...] = ()
    """(ordinal, block sequence when it was assigned): guards a late release."""
    claimed_at: str | None = None
    owner_kind: str = "host"
    """`host`, or `virtual` for Calico's load balancer."""
    other: str = ""
    """Fields we do not know, as JSON: written back as they are."""


@dataclass(frozen=True, slots=True)
class Handle:
    """The id under which addresses are released together: how many it holds in each block."""

    id: HandleId
    count_by_block: tuple[tuple[Prefix, int], ...]


@dataclass(frozen=True, slots=True)
class IpamConfig:
    """The cluster's allocation rules (Calico's IPAMConfig); the defaults are those of a missing key."""

    strict_affinity: bool = False
    auto_allocate_blocks: bool = True
    blocks_per_node: int = 0
    """0 means DEFAULT_BLOCKS_PER_NODE."""
    cooldown_seconds: int = 0
    other: str = ""
    """Fields we do not know, as JSON: written back as they are."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """One address, given to a handle."""

    address: Address
    block: Prefix
    pool: str
    handle: HandleId


@dataclass(frozen=True, slots=True)
class Namespace:
    """The namespace of a pod, for namespaceSelector."""

    name: str = ""
    """Empty: the addresses are for no pod of Kubernetes, and the labels are none, as in Calico."""
    labels: tuple[tuple[str, str], ...] = ()
    unknown: str = ""
    """Set: why nobody knows the labels."""


@dataclass(frozen=True, slots=True)
class AddressRequest:
    """What a caller wants: so many addresses of each family for one handle on one node."""

    handle: HandleId
    node: NodeName
    labels: tuple[tuple[str, str], ...] = ()
    """The node's labels, for nodeSelector."""
    use: Use = Use.WORKLOAD
    ipv4: int = 1
    ipv6: int = 0
    namespace: Namespace = Namespace()
    ipv4_pools: tuple[str, ...] = ()
    """Names or CIDRs of the pools to assign IPv4 addresses from, the first one first; empty: all that select."""
    ipv6_pools: tuple[str, ...] = ()
    exact: tuple[Address, ...] = ()
    """Exactly these, or nothing; they count among those of their family."""
    secondary: tuple[tuple[str, str], ...] = ()
    """Recorded with the allocation: node, pod, namespace, type, timestamp."""
    retained_for: HandleId | None = None
    """Take over what is retained for this name, where it fits the request."""
    reinstated: bool = False
    """The addresses of `exact` are in use already: they are written down whatever the rules say of new ones."""
    replaces: frozenset[HandleId] = frozenset()
    """Handles whose users are gone: what they hold of `exact` is taken over."""


@dataclass(frozen=True, slots=True)
class PoolRecord:
    """A pool with the key and the revision it was read at: an allocation is guarded by both."""

    pool: Pool
    key: str
    revision: int
    unreadable: str = ""
    """Set: why its present value cannot be read. It is what it was for routes, and no address is taken from it."""
    withdrawn: str = ""
    """Set: why nothing new is taken from it, by its own metadata and status: it is being deleted, not allocatable."""

    @property
    def refusal(self) -> str | None:
        """Why nothing new is taken from the pool, whoever asks; None: it may give addresses."""
        if self.unreadable:
            return f"cannot be read: {self.unreadable}"
        return "is disabled" if self.pool.disabled else self.withdrawn or None
