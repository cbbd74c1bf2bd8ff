"""Which timers a BFD session has: by interface those of the BFDConfigurations for this node, else the settings'.

Promises: pure. The most exact pattern decides (a name, then the longest beginning), of equal ones the first, by the
names of the resources; what is not kept of what a resource asks for is a sentence.
Does not know: which sessions are wanted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from agent.configuration.config import BfdSettings
from agent.datastore.resources.bgp_parsing import milliseconds
from agent.datastore.resources.bgp_types import BFDConfigurationSpec, BFDInterface
from agent.datastore.resources.resource_types import Node
from bgp.bfd.door import LONGEST_MS, SHORTEST_IDLE_MS, SHORTEST_MS
from ipam.selector import parse

DEFAULT_RECV, DEFAULT_SEND, DEFAULT_IDLE, DEFAULT_MULTIPLIER = "10ms", "100ms", "1m", 5
"""Calico's, of what a BFDInterface does not say."""


@dataclass(frozen=True, slots=True)
class BfdTimers:
    """Of a session; milliseconds."""

    min_tx: int
    min_rx: int
    multiplier: int
    idle: int = SHORTEST_IDLE_MS
    """Between packets while it is not up."""


@dataclass(frozen=True, slots=True)
class InterfaceTimers:
    """What a resource asks for on some interfaces."""

    pattern: str
    timers: BfdTimers
    resource: str
    limited: tuple[str, ...] = ()
    """What is not kept of it."""

    def matches(self, interface: str) -> bool:
        """Whether it is for this interface."""
        beginning, star, _ = self.pattern.partition("*")
        return interface.startswith(beginning) if star else interface == beginning


def interface_timers(
    configurations: Mapping[str, BFDConfigurationSpec], node: Node | None
) -> tuple[InterfaceTimers, ...]:
    """All that is asked for on a node, the most exact pattern first; one that is not known has no labels."""
    labels = (node.metadata.labels if node is not None else None) or {}
    found = [
        _of(name, one)
        for name, spec in sorted(configurations.items())
        if parse(spec.node_selector or "all()").matches(labels)
        for one in spec.interfaces or ()
    ]
    return tuple(sorted(found, key=lambda one: ("*" in one.pattern, -len(one.pattern))))


def timers_over(
    interface: str, asked: tuple[InterfaceTimers, ...], settings: BfdSettings
) -> tuple[BfdTimers, tuple[str, ...]]:
    """The timers of a session over an interface (empty: over several hops, which no pattern means), and what of a
    BFDConfiguration is not in force there."""
    matching = [one for one in asked if interface and one.matches(interface)]
    if not matching:
        return BfdTimers(settings.min_tx, settings.min_rx, settings.multiplier), ()
    first, *others = matching
    return first.timers, (*first.limited, *_contradictions(first, others))


def _contradictions(first: InterfaceTimers, others: list[InterfaceTimers]) -> Iterator[str]:
    for other in others:
        if other.pattern == first.pattern and other.timers != first.timers:
            yield (
                f"BFDConfiguration {other.resource}: {first.pattern} has other timers in {first.resource}, "
                "which is first by name and holds"
            )


def _of(name: str, one: BFDInterface) -> InterfaceTimers:
    pattern = one.match_pattern or "*"
    asked = {
        "minimumSendInterval": (milliseconds(one.minimum_send_interval or DEFAULT_SEND), SHORTEST_MS),
        "minimumRecvInterval": (milliseconds(one.minimum_recv_interval or DEFAULT_RECV), SHORTEST_MS),
        "idleSendInterval": (milliseconds(one.idle_send_interval or DEFAULT_IDLE), SHORTEST_IDLE_MS),
    }
    kept = {field: min(max(wanted, least), LONGEST_MS) for field, (wanted, least) in asked.items()}
    limited = tuple(
        f"BFDConfiguration {name}, {pattern}: {field} is {wanted} ms, and {kept[field]} ms is used: "
        f"it is {least} to {LONGEST_MS} here"
        for field, (wanted, least) in asked.items()
        if kept[field] != wanted
    )
    tx, rx, idle = kept.values()
    return InterfaceTimers(
        pattern, BfdTimers(tx, rx, one.multiplier or DEFAULT_MULTIPLIER, idle), name, limited
    )
