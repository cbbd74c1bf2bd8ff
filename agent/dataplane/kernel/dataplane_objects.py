"""What this agent programs, as values with the kernel's own keys: the kinds of object, those of nftables, the whole.

Promises: equal values mean the same kernel state. Does not know: netlink, who desires an object, or why.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv4Network, IPv6Network, collapse_addresses

from agent.netlink.objects import Address, FdbEntry, Neighbour, Prefix, Route, RouteKey, Sysctl, Tunnel


class Kind(IntEnum):
    """The kinds of object in the order in which they may be created; they are deleted from the bottom up."""

    TUNNEL = 1
    NEIGHBOUR = 2
    FDB = 3
    SYSCTL = 4
    ROUTE = 5
    MASQUERADE = 6
    FORWARD = 7


@dataclass(frozen=True, slots=True)
class Masquerade:
    """natOutgoing: traffic from `sources` to anything outside `pools` leaves with the node's address."""

    sources: frozenset[Prefix] = frozenset()
    pools: frozenset[Prefix] = frozenset()

    def of_version(self, version: int) -> Masquerade:
        """The part of one version of IP; empty when none of its pools is a source."""
        sources = frozenset(prefix for prefix in self.sources if prefix.version == version)
        pools = frozenset(prefix for prefix in self.pools if prefix.version == version)
        return Masquerade(sources, pools) if sources else Masquerade()

    def collapsed(self) -> Masquerade:
        """The same addresses in the fewest networks: the form the kernel's interval sets are read back in."""
        four, six = self.of_version(4), self.of_version(6)
        return Masquerade(collapsed(four.sources | six.sources), collapsed(four.pools | six.pools))


def collapsed(prefixes: Iterable[Prefix]) -> frozenset[Prefix]:
    """Prefixes of one version of IP in the fewest networks."""
    given = tuple(prefixes)
    four = [prefix for prefix in given if isinstance(prefix, IPv4Network)]
    six = [prefix for prefix in given if isinstance(prefix, IPv6Network)]
    return frozenset((*collapse_addresses(four), *collapse_addresses(six)))


ForwardKey = tuple[str, str, str]
"""Family, table and chain, as nft(8) names them."""


@dataclass(frozen=True, slots=True)
class ForwardChain:
    """Somebody's nftables base chain at the forward hook, where pods' packets pass."""

    family: str
    table: str
    name: str
    drops: bool
    """What no rule of it accepts is lost."""
    opened: bool = False
    """Our rules for pods are in it."""

    @property
    def key(self) -> ForwardKey:
        """What nftables itself uses as key."""
        return self.family, self.table, self.name


@dataclass(frozen=True, slots=True)
class Dataplane:
    """Everything that the kernel should hold of ours."""

    tunnels: Mapping[str, Tunnel] = field(default_factory=dict)
    neighbours: Mapping[tuple[str, Address], Neighbour] = field(default_factory=dict)
    fdb: Mapping[tuple[str, str], FdbEntry] = field(default_factory=dict)
    routes: Mapping[RouteKey, Route] = field(default_factory=dict)
    masquerade: Masquerade = Masquerade()
    sysctls: Mapping[str, Sysctl] = field(default_factory=dict)
    """By name. One that does not exist (its device is not there, IPv6 is off) is passed over."""
    open_forward: bool = False
    """Others' forward chains that drop are to let pods' packets through."""
