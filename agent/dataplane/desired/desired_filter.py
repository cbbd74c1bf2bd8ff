"""Facts to what is in the workload filter's sets: who may send from which address, and which addresses are nodes'.

Promises: pure but for its memory; an endpoint's addresses count on its own interface alone, and no name is an element
that cannot be a workload's interface. Does not know: what the filter's rules do with the sets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Network

from agent.dataplane.inputs.facts import Endpoint, Facts
from agent.dataplane.kernel.calico_names import is_workload_device
from agent.dataplane.kernel.dataplane_objects import FilterElement, FilterSet, WorkloadFilter, collapsed
from agent.memo import Each, Memo
from agent.netlink.objects import Address, Prefix, Tunnel, TunnelKind

IPIP_PROTOCOL = 4
SOURCES = {4: FilterSet.SOURCES_4, 6: FilterSet.SOURCES_6}
SOURCE_PREFIXES = {4: FilterSet.SOURCE_PREFIXES_4, 6: FilterSet.SOURCE_PREFIXES_6}
NODES = {4: FilterSet.NODES_4, 6: FilterSet.NODES_6}
SPEAKERS = {4: FilterSet.SPEAKERS_4, 6: FilterSet.SPEAKERS_6}
VXLAN_PORTS = {4: FilterSet.VXLAN_PORTS_4, 6: FilterSet.VXLAN_PORTS_6}


class WorkloadElements:
    """What follows from the endpoints: one that comes or goes among hundreds costs its own elements alone.

    Prefixes are few, and those of one interface must not overlap, whoever wrote them: the kernel would refuse them all.
    """

    def __init__(self) -> None:
        self._made = Each[Endpoint, tuple[Endpoint, tuple[FilterElement, ...]]]()
        self._with_prefixes: list[Endpoint] = []
        self._bearers: dict[FilterElement, int] = {}
        """How many endpoints an element follows from: usually one."""
        self._elements = frozenset[FilterElement]()

    def of(self, endpoints: Iterable[Endpoint]) -> frozenset[FilterElement]:
        """Their elements."""
        new, old = self._made.update(endpoints, lambda one: (one, tuple(_of_workload(one))))
        come = [element for _, elements in new for element in elements]
        for element in come:
            self._bearers[element] = self._bearers.get(element, 0) + 1
        gone = set()
        for element in (element for _, elements in old for element in elements):
            self._bearers[element] -= 1
            if not self._bearers[element]:
                del self._bearers[element]
                gone.add(element)
        if come:
            self._elements |= frozenset(come)
        if gone:
            self._elements -= gone
        if any(endpoint.source_prefixes for endpoint, _ in (*new, *old)):
            self._with_prefixes = [endpoint for endpoint, _ in self._made if endpoint.source_prefixes]
        prefixes = frozenset(_prefixes(self._with_prefixes))
        return self._elements | prefixes if prefixes else self._elements


class DesiredFilter:
    """Remembers what follows from the nodes, of which there may be thousands, and from the endpoints."""

    def __init__(self) -> None:
        self._of_workloads = WorkloadElements()
        self._workloads = Memo[frozenset[FilterElement]](by_identity=True)
        self._cluster = Memo[frozenset[FilterElement]](by_identity=True)
        self._local = Memo[frozenset[FilterElement]](by_identity=False)
        self._whole = Memo[frozenset[FilterElement]](by_identity=True)

    def of(self, facts: Facts, tunnels: Mapping[str, Tunnel]) -> WorkloadFilter | None:
        """The filter with these tunnel devices; None: it is switched off."""
        if not facts.settings.filter_workloads:
            return None
        endpoints, addresses, speakers = facts.endpoints, facts.cluster_addresses, facts.bgp_speakers
        elements = frozenset(map(tunnel_element, tunnels.values()))
        local = self._local.get(
            lambda: elements | {FilterElement(FilterSet.BGP_PORTS, (facts.listen_port,))},
            elements,
            facts.listen_port,
        )
        cluster = self._cluster.get(lambda: frozenset(_of_cluster(addresses, speakers)), addresses, speakers)
        return WorkloadFilter(
            self._workloads.get(lambda: self._of_workloads.of(endpoints), endpoints),
            self._whole.get(lambda: cluster | local, cluster, local),
        )


def source(interface: str, address: Address) -> FilterElement:
    """A workload's own address, on its own interface."""
    return FilterElement(SOURCES[address.version], (interface, address))


def tunnel_element(tunnel: Tunnel) -> FilterElement:
    """The packets of a tunnel device come from nodes alone."""
    if tunnel.kind is TunnelKind.IPIP or tunnel.port is None:
        return FilterElement(FilterSet.TUNNEL_PROTOCOLS, (IPIP_PROTOCOL,))
    version = tunnel.local.version if tunnel.local is not None else 4
    return FilterElement(VXLAN_PORTS[version], (tunnel.port,))


def _of_workload(endpoint: Endpoint) -> Iterator[FilterElement]:
    name = endpoint.interface
    if not is_workload_device(name):
        return
    yield from (source(name, address) for address in endpoint.addresses)
    if endpoint.may_peer:
        yield FilterElement(FilterSet.PEERS, (name,))
    if endpoint.may_route:
        yield FilterElement(FilterSet.ROUTERS, (name,))


def _prefixes(endpoints: Iterable[Endpoint]) -> Iterator[FilterElement]:
    by_name: dict[str, list[Prefix]] = {}
    for endpoint in endpoints:
        if endpoint.source_prefixes and is_workload_device(endpoint.interface):
            by_name.setdefault(endpoint.interface, []).extend(endpoint.source_prefixes)
    for name, found in by_name.items():
        for prefix in collapsed(found):
            version = 4 if isinstance(prefix, IPv4Network) else 6
            yield FilterElement(SOURCE_PREFIXES[version], (name, prefix))


def _of_cluster(
    addresses: Iterable[Address], speakers: Iterable[tuple[Address, int]]
) -> Iterator[FilterElement]:
    for address in addresses:
        yield FilterElement(NODES[address.version], (address,))
    for address, port in speakers:
        yield FilterElement(SPEAKERS[address.version], (address, port))
        yield FilterElement(FilterSet.SPEAKER_PORTS, (port,))
