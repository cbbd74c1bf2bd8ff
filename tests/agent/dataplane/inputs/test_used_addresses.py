"""What the kernel of one machine shows to be in use, by a table of interfaces and routes."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from agent.dataplane.inputs.used_addresses import used_addresses
from agent.netlink.objects import Link, Route, RouteKey


def link(name: str, *addresses: str) -> Link:
    own: tuple[tuple[IPv4Address | IPv6Address, int], ...] = tuple((ip_address(one), 32) for one in addresses)
    return Link(7, name, None, 1500, up=True, addresses=own)


def route(destination: str, device: str | None) -> Route:
    return Route(RouteKey(ip_network(destination)), device=device)


def test_routes_to_pods_and_addresses_of_tunnels_are_used_and_nothing_else_is() -> None:
    links = [
        link("tunl0", "10.9.0.1"),
        link("vxlan.calico", "10.9.0.2"),
        link("vxlan-v6.calico", "fd00::2", "fe80::2"),
        link("wireguard.cali", "10.9.0.3"),
        link("eth0", "172.16.0.1"),
        link("cali1", "fe80::ecee:eeff:feee:eeee"),
    ]
    routes = [
        route("10.9.0.7/32", "cali1"),
        route("fd00::7/128", "cali1"),
        route("10.9.1.0/26", "cali1"),
        route("10.9.0.8/32", "eth0"),
        route("10.9.0.0/26", None),
        route("fe80::/64", "cali1"),
    ]
    assert {str(address): user for address, user in used_addresses(links, routes).items()} == {
        "10.9.0.1": "tunl0 of this machine",
        "10.9.0.2": "vxlan.calico of this machine",
        "fd00::2": "vxlan-v6.calico of this machine",
        "10.9.0.3": "wireguard.cali of this machine",
        "10.9.0.7": "the pod behind cali1 of this machine",
        "fd00::7": "the pod behind cali1 of this machine",
    }
