"""What this agent programs, as values with the kernel's own keys: the kinds of object, those of nftables, the whole.

Promises: equal values mean the same kernel state. Does not know: netlink, who desires an object, or why.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from ipaddress import IPv4Network, IPv6Network, collapse_addresses
from types import MappingProxyType
from typing import NamedTuple

from agent.dataplane.kernel.calico_names import WORKLOAD_PREFIX
from agent.netlink.objects import Address, FdbEntry, Link, Neighbour, Prefix, Route, RouteKey, Sysctl, Tunnel


class Kind(IntEnum):
    """The kinds of object in the order in which they may be created; they are deleted from the bottom up."""

    FILTER = 1
    """Before all that it protects: a tunnel, a pod's route."""
    TUNNEL = 2
    NEIGHBOUR = 3
    FDB = 4
    SYSCTL = 5
    ROUTE = 6
    MASQUERADE = 7
    FORWARD = 8


class Links(dict[str, Link]):
    """The links of one moment by name; it is not changed, but made anew."""

    def __init__(self, links: Mapping[str, Link] = MappingProxyType({})) -> None:
        super().__init__(links)
        self.host: Mapping[str, Link] = {
            name: link for name, link in self.items() if not name.startswith(WORKLOAD_PREFIX)
        }
        """Those that are no pods': there are few, and the same object is here as long as none of them changed."""

    def with_changes(self, changes: Mapping[str, Link | None]) -> Links:
        """With these links in place of those of their names; None: it is gone."""
        made = Links()
        made.update(self)
        _change(made, changes)
        mine = {name: link for name, link in changes.items() if not name.startswith(WORKLOAD_PREFIX)}
        made.host = self.host
        if mine:
            _change(host := dict(self.host), mine)
            made.host = host
        return made


def _change(links: dict[str, Link], changes: Mapping[str, Link | None]) -> None:
    for name, link in changes.items():
        if link is None:
            links.pop(name, None)
        else:
            links[name] = link


def host_links(links: Mapping[str, Link]) -> Mapping[str, Link]:
    """The links that are no pods'."""
    return links.host if isinstance(links, Links) else Links(links).host


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


class FilterSet(StrEnum):
    """The sets of the workload filter, by their names in the table; `4` and `6` are versions of IP."""

    SOURCES_4 = "sources4"
    """Interface and address: what a workload may send from."""
    SOURCES_6 = "sources6"
    SOURCE_PREFIXES_4 = "source-prefixes4"
    """Interface and prefix: Calico's allowedSourcePrefixes."""
    SOURCE_PREFIXES_6 = "source-prefixes6"
    ROUTERS = "routers"
    """Interfaces of workloads that may send from any address."""
    PEERS = "peers"
    """Interfaces of workloads that may reach nodes' BGP ports."""
    NODES_4 = "nodes4"
    """Addresses of all nodes: tunnels' packets come from them, and no workload's go to them."""
    NODES_6 = "nodes6"
    SPEAKERS_4 = "bgp-speakers4"
    """Address and port of all that nodes have BGP sessions with."""
    SPEAKERS_6 = "bgp-speakers6"
    SPEAKER_PORTS = "bgp-speaker-ports"
    """Their ports alone: of most packets no more has to be looked at."""
    BGP_PORTS = "bgp-ports"
    """The port of this node's own speaker."""
    VXLAN_PORTS_4 = "vxlan-ports4"
    """UDP ports of this node's VXLAN devices."""
    VXLAN_PORTS_6 = "vxlan-ports6"
    TUNNEL_PROTOCOLS = "tunnel-protocols"
    """Protocols of this node's other tunnel devices."""


WORKLOAD_SETS = frozenset(
    {
        FilterSet.SOURCES_4,
        FilterSet.SOURCES_6,
        FilterSet.SOURCE_PREFIXES_4,
        FilterSet.SOURCE_PREFIXES_6,
        FilterSet.ROUTERS,
        FilterSet.PEERS,
    }
)
"""Those whose elements begin with the name of a workload's interface."""


class FilterElement(NamedTuple):
    """One element of one set."""

    of: FilterSet
    values: tuple[str | int | Address | Prefix, ...]
    """The parts of its key: names of interfaces, addresses, prefixes, ports and protocols."""


@dataclass(frozen=True, slots=True)
class WorkloadFilter:
    """The nftables table between workloads and nodes: its rules are fixed, and here is what its sets hold."""

    workloads: frozenset[FilterElement] = frozenset()
    """Elements that come and go with this node's workloads."""
    cluster: frozenset[FilterElement] = frozenset()
    """All others."""
    is_intact: bool = True
    """The rules are as they were made."""

    def __str__(self) -> str:
        """How much it is."""
        state = "" if self.is_intact else ", its rules altered"
        return f"{len(self.workloads)} elements of workloads, {len(self.cluster)} of the cluster{state}"


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
    workload_filter: WorkloadFilter | None = None
