"""The addresses that this machine's kernel shows to be in use: pods it has routes to, tunnels' own addresses.

Promises: pure; what is no single host's route to a pod's interface, and no address of a tunnel of Calico's names, is
left out. Does not know: the datastore, and so whether somebody allocated them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.dataplane.kernel.calico_names import OUR_TUNNELS, WORKLOAD_PREFIX
from agent.netlink.objects import Link, Route
from ipam.model import Address

WIREGUARD_DEVICES = frozenset({"wireguard.cali", "wg-v6.cali"})
"""Calico's; this program makes none."""


def used_addresses(links: Iterable[Link], routes: Iterable[Route]) -> Mapping[Address, str]:
    """Address -> the device that shows its use."""
    found: dict[Address, str] = {}
    for link in links:
        if link.name in OUR_TUNNELS | WIREGUARD_DEVICES:
            found.update((address, f"{link.name} of this machine") for address, _ in link.addresses)
    for route in routes:
        destination = route.key.destination
        if (route.device or "").startswith(
            WORKLOAD_PREFIX
        ) and destination.prefixlen == destination.max_prefixlen:
            found[destination.network_address] = f"the pod behind {route.device} of this machine"
    return {address: user for address, user in found.items() if not address.is_link_local}
