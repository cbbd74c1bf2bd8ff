"""Which interfaces lead to the other nodes, and by which gateway those are reached that are on no link.

The MTU of these interfaces is the one that counts, not that of an address on the loopback; and the gateways are what
nobody else may announce.

Promises: pure; a node that is not reached changes nothing of the others. Does not know: what follows from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from agent.dataplane.inputs.next_hops import OWN_ADDRESS, Resolutions
from agent.dataplane.kernel.calico_names import OUR_TUNNELS
from agent.netlink.objects import Address


@dataclass(frozen=True, slots=True)
class Underlay:
    """The ways to the other nodes."""

    links: frozenset[str] = frozenset()
    """Names of the interfaces that lead to them."""
    gateways: Mapping[Address, Address] = field(default_factory=dict)
    """Distant node -> the gateway to it, the first of several."""
    unreached: Mapping[Address, str] = field(default_factory=dict)
    """Node that does not resolve -> why not: what tunnels send there is lost."""


def underlay_of(nodes: Iterable[Address], resolutions: Resolutions) -> Underlay:
    """What leads to these nodes."""
    links: set[str] = set()
    gateways: dict[Address, Address] = {}
    unreached: dict[Address, str] = {}
    for node in nodes:
        found = resolutions.of(node)
        if found.why and found.why != OWN_ADDRESS:
            unreached[node] = found.why
        hops = [hop for hop in found.hops if hop.device not in OUR_TUNNELS]
        links.update(hop.device for hop in hops if hop.device is not None)
        via = next((hop.gateway for hop in hops if hop.gateway not in (None, node)), None)
        if via is not None:
            gateways[node] = via
    return Underlay(frozenset(links - {"lo"}), gateways, unreached)
