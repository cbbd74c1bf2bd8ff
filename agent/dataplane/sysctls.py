"""Which sysctls pod traffic needs on this node, as Calico sets them.

Promises: pure; names are paths below /proc/sys. The host answers ARP for the pod's gateway at once (proxy_arp,
proxy_delay), forwards, lets a pod reach what listens on the host's loopback by a rewritten address (route_localnet),
and believes no router that a pod claims to be (accept_ra). Does not know: what they are set to now.
"""

from __future__ import annotations

from agent.dataplane.facts import Facts
from agent.dataplane.objects import Sysctl

PER_INTERFACE = (
    ("net/ipv4/conf/{}/route_localnet", "1"),
    ("net/ipv4/conf/{}/proxy_arp", "1"),
    ("net/ipv4/conf/{}/forwarding", "1"),
    ("net/ipv4/neigh/{}/proxy_delay", "0"),
    ("net/ipv6/conf/{}/accept_ra", "0"),
)
FORWARDING = Sysctl("net/ipv4/ip_forward", "1")


def sysctls(facts: Facts) -> dict[str, Sysctl]:
    """The switch for forwarding, and five for each pod's interface."""
    found = {FORWARDING.name: FORWARDING}
    for endpoint in facts.endpoints:
        for pattern, value in PER_INTERFACE:
            name = pattern.format(endpoint.interface)
            found[name] = Sysctl(name, value)
    return found
