"""What a judged scene is: cables, routes of the host, BGP peers with what they announce, and steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

NODE_AS = 64512


@dataclass(frozen=True, slots=True)
class Cable:
    """A veth pair: an interface of the node, and one of the same name at the far side."""

    name: str
    near: tuple[str, ...] = ()
    """The node's addresses with their lengths."""
    far: tuple[str, ...] = ()
    mtu: int = 1500


@dataclass(frozen=True, slots=True)
class Announced:
    """A prefix that a peer announces."""

    prefix: str
    how: str = ""
    """Statements of a BIRD filter on it: `bgp_next_hop = 10.9.9.9; bgp_med = 5; bgp_path.prepend(65000);`."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A BGP speaker at the far side."""

    name: str
    address: str
    """Its own; one that no cable has is put on the far side's lo."""
    near: str
    """The node's address that it speaks with."""
    announces: tuple[Announced, ...] = ()
    asn: int = 64601
    spec: Mapping[str, Any] = field(default_factory=dict)
    """More of our BGPPeer's spec."""
    bird: str = ""
    """More of the judging BIRD's protocol."""
    frr: tuple[str, ...] = ()
    """More of the judging FRR's neighbor, each behind `neighbor ADDRESS`."""
    far_bird: str = ""
    """More of the peer's own."""

    @property
    def version(self) -> int:
        """Of IP: of the session, and of what it carries."""
        return ip_address(self.address).version


@dataclass(frozen=True, slots=True)
class Step:
    """What happens, on both sides, before the routes are compared."""

    has: int
    """How many routes of BGP the judge must have after it, of both versions of IP."""
    node: tuple[str, ...] = ()
    """`ip` commands at the node: "link set eth1 down", "-6 route add …"."""
    far: tuple[str, ...] = ()
    """`ip` commands at the far side."""
    birdc: tuple[str, ...] = ()
    """Commands of the peers' BIRD: "disable NAME"."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What is built; the first step is compared once it all stands."""

    cables: tuple[Cable, ...]
    peers: tuple[Peer, ...]
    steps: tuple[Step, ...]
    node: tuple[str, ...] = ()
    """`ip` commands at the node, before its BGP begins."""
    far: tuple[str, ...] = ()
    has_default: bool = True
    """Whether the node has a default route, of each version of IP."""
    judges: frozenset[str] = frozenset({"bird", "frr"})
    """Who judges it, where they are not of one mind."""
