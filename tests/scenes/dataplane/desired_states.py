"""What the dataplane's tests desire, by name."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from agent.dataplane.kernel.calico_names import TUNL0, VXLAN_DEVICE
from agent.dataplane.kernel.dataplane_objects import (
    Dataplane,
    FilterElement,
    FilterSet,
    Masquerade,
    WorkloadFilter,
)
from agent.netlink.objects import FdbEntry, Neighbour, Route, RouteKey, RouteType, Scope, Tunnel, TunnelKind

SECOND = 1.0


def key(text: str) -> RouteKey:
    return RouteKey(IPv4Network(text))


LEARNED = Route(key("10.1.1.0/26"), gateway=IPv4Address("172.26.0.2"), device="eth0")
OWN_BLOCK = Route(key("10.1.0.0/26"), RouteType.BLACKHOLE)
POD = Route(key("10.1.0.7/32"), device="cali1", protocol=3, scope=Scope.LINK)
REMOTE = Route(
    key("10.2.0.0/26"), gateway=IPv4Address("10.2.0.0"), device=VXLAN_DEVICE, protocol=3, onlink=True
)
FOREIGN = Route(key("10.1.1.0/26"), gateway=IPv4Address("172.26.0.9"), device="eth0", protocol=11)
VXLAN = Tunnel(
    VXLAN_DEVICE,
    TunnelKind.VXLAN,
    1450,
    IPv4Address("10.1.0.1"),
    vni=4096,
    port=4789,
    parent="eth0",
    local=IPv4Address("172.26.0.1"),
    mac="66:f9:37:c3:7e:94",
)
IPIP = Tunnel(TUNL0, TunnelKind.IPIP, 1480, IPv4Address("10.1.0.2"))
VTEP = Neighbour(VXLAN_DEVICE, IPv4Address("10.2.0.0"), "66:2d:bf:44:a6:8b")
FORWARDING = FdbEntry(VXLAN_DEVICE, "66:2d:bf:44:a6:8b", IPv4Address("172.26.0.2"))
NAT = Masquerade(frozenset({IPv4Network("10.1.0.0/16")}), frozenset({IPv4Network("10.1.0.0/16")}))
SOURCE = FilterElement(FilterSet.SOURCES_4, ("cali1", IPv4Address("10.1.0.7")))
PORTS = frozenset(
    {FilterElement(FilterSet.BGP_PORTS, (179,)), FilterElement(FilterSet.VXLAN_PORTS_4, (4789,))}
)
FILTER = WorkloadFilter(frozenset({SOURCE}), PORTS)


def routes(*desired: Route) -> Dataplane:
    return Dataplane(routes={route.key: route for route in desired})


EVERYTHING = Dataplane(
    tunnels={VXLAN_DEVICE: VXLAN},
    neighbours={(VXLAN_DEVICE, VTEP.address): VTEP},
    fdb={(VXLAN_DEVICE, FORWARDING.mac): FORWARDING},
    routes={route.key: route for route in (LEARNED, OWN_BLOCK, POD, REMOTE)},
    masquerade=NAT,
    workload_filter=FILTER,
)
