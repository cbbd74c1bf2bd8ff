"""How large a packet may be: from the interfaces that lead to other nodes, and who is above it.

Promises: pure. Does not know: how ways are looked up; a pod that was given a smaller MTU on purpose from another.
"""

from __future__ import annotations

from agent.dataplane.desired.desired_tunnels import tunnels
from agent.dataplane.inputs.facts import Facts


def pod_mtu(facts: Facts) -> int | None:
    """The MTU a new pod gets: the smallest that any encapsulation in use leaves; None before the underlay is known."""
    underlay = facts.underlay_mtu(4)
    return min((underlay, *(tunnel.mtu for tunnel in tunnels(facts).values()))) if underlay else None


def oversized(facts: Facts) -> list[tuple[str, int, int]]:
    """The pods' interfaces whose packets can be too large for the way: (interface, its MTU, what the way carries)."""
    carried = pod_mtu(facts)
    if carried is None:
        return []
    links = [facts.links[one.interface] for one in facts.endpoints if one.interface in facts.links]
    return [(link.name, link.mtu, carried) for link in links if link.mtu > carried]
