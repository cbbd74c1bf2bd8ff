"""Which sysctls pod traffic needs on this node, as Calico sets them.

Promises: pure; names are paths below /proc/sys. The host answers ARP for the pod's gateway at once (proxy_arp,
proxy_delay) and neighbour discovery for what it routes (proxy_ndp), forwards, lets a pod reach what listens on the
host's loopback by a rewritten address (route_localnet), and believes no router that a pod claims to be (accept_ra).
IPv6 is forwarded only where a pool of it is: a forwarding host believes no router any more (accept_ra 1), and would
lose its own default route for nothing. Does not know: what they are set to now.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import chain

from agent.dataplane.inputs.facts import Endpoint, Facts
from agent.memo import Each
from agent.netlink.objects import Sysctl

FORWARDING_OF = "net/ipv4/conf/{}/forwarding"
"""What ip_forward sets of every interface, and somebody may take from one; IPv6's is the host's own affair."""
PER_INTERFACE = (
    ("net/ipv4/conf/{}/route_localnet", "1"),
    ("net/ipv4/conf/{}/proxy_arp", "1"),
    (FORWARDING_OF, "1"),
    ("net/ipv4/neigh/{}/proxy_delay", "0"),
    ("net/ipv6/conf/{}/accept_ra", "0"),
)
PER_INTERFACE_6 = (
    ("net/ipv6/conf/{}/proxy_ndp", "1"),
    ("net/ipv6/conf/{}/forwarding", "1"),
)
INTERFACES_REMEMBERED = 4096
"""Most interfaces of pods whose sysctls are not made anew by each pass."""
FORWARDING = Sysctl("net/ipv4/ip_forward", "1")
FORWARDING_6 = Sysctl("net/ipv6/conf/all/forwarding", "1")


OfEndpoints = Each[Endpoint, Iterable[tuple[str, Sysctl]]]


def sysctls(
    facts: Facts, forwarding: Iterable[str] = (), each: OfEndpoints | None = None
) -> dict[str, Sysctl]:
    """The sysctls for forwarding, those of other interfaces that are to forward, and those of each pod's.

    `each` remembers those of the pods from one call to the next.
    """
    found = {FORWARDING.name: FORWARDING}
    if any(pool.cidr.version == 6 for pool in facts.pools):
        found[FORWARDING_6.name] = FORWARDING_6
    for name in (FORWARDING_OF.format(device) for device in forwarding):
        found[name] = Sysctl(name, "1")
    each = OfEndpoints() if each is None else each
    each.update(facts.endpoints, lambda one: _of_endpoint(one).items())
    found |= chain.from_iterable(each)
    return found


def _of_endpoint(endpoint: Endpoint) -> Mapping[str, Sysctl]:
    return _of_interface(endpoint.interface, any(address.version == 6 for address in endpoint.addresses))


def names_of(interface: str) -> tuple[str, ...]:
    """Names of the sysctls of one interface that are ever desired."""
    return tuple(pattern.format(interface) for pattern, _ in (*PER_INTERFACE, *PER_INTERFACE_6))


@lru_cache(maxsize=INTERFACES_REMEMBERED)
def _of_interface(interface: str, dual: bool) -> Mapping[str, Sysctl]:
    patterns = (*PER_INTERFACE, *(PER_INTERFACE_6 if dual else ()))
    made = (Sysctl(pattern.format(interface), value) for pattern, value in patterns)
    return {sysctl.name: sysctl for sysctl in made}
