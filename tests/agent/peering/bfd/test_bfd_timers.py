"""Which timers a BFD session has, by BFDConfigurations and settings."""

from __future__ import annotations

import json

import msgspec
import pytest

from agent.configuration.config import BfdSettings
from agent.datastore.resources.bgp_types import BFDConfigurationSpec, BFDInterface
from agent.datastore.resources.resource_types import Metadata, Node
from agent.peering.bfd.bfd_timers import BfdTimers, interface_timers, timers_over

SETTINGS = BfdSettings(min_tx=300, min_rx=400, multiplier=9)
OURS = BfdTimers(300, 400, 9)
NODE = Node(metadata=Metadata(name="n", labels={"rack": "r1"}))


def spec(*interfaces: dict[str, object], selector: str = "") -> BFDConfigurationSpec:
    found = [msgspec.json.decode(json.dumps(one), type=BFDInterface) for one in interfaces]
    return BFDConfigurationSpec(node_selector=selector, interfaces=found)


def said(pattern: str, send: int, **more: object) -> dict[str, object]:
    return {"matchPattern": pattern, "minimumSendInterval": f"{send}ms", "idleSendInterval": "1s", **more}


def over(
    interface: str, configurations: dict[str, BFDConfigurationSpec]
) -> tuple[BfdTimers, tuple[str, ...]]:
    return timers_over(interface, interface_timers(configurations, NODE), SETTINGS)


TX = [
    ("no resource", {}, "eth0", 300),
    ("all nodes, all interfaces", {"a": spec(said("*", 50))}, "eth0", 50),
    ("no interfaces", {"a": spec()}, "eth0", 300),
    ("another node's", {"a": spec(said("*", 50), selector='rack == "r2"')}, "eth0", 300),
    ("this node's", {"a": spec(said("*", 50), selector='rack == "r1"')}, "eth0", 50),
    ("a beginning", {"a": spec(said("eth*", 50))}, "eth0", 50),
    ("the beginning alone", {"a": spec(said("eth*", 50))}, "eth", 50),
    ("another beginning", {"a": spec(said("ens*", 50))}, "eth0", 300),
    ("a name is no beginning", {"a": spec(said("eth1", 50))}, "eth10", 300),
    ("a dot is a dot", {"a": spec(said("eth0.1", 50))}, "eth0x1", 300),
    ("a name goes first", {"a": spec(said("*", 50), said("eth*", 60), said("eth0", 70))}, "eth0", 70),
    ("then the longest beginning", {"a": spec(said("e*", 50), said("eth*", 60))}, "eth0", 60),
    ("whatever resource it is in", {"a": spec(said("*", 50)), "b": spec(said("eth0", 70))}, "eth0", 70),
    ("of equal ones the first by name", {"b": spec(said("*", 50)), "a": spec(said("*", 70))}, "eth0", 70),
    ("of equal ones in one the first", {"a": spec(said("*", 50), said("*", 70))}, "eth0", 50),
    ("no pattern is several hops", {"a": spec(said("*", 50))}, "", 300),
]


@pytest.mark.parametrize(
    ("configurations", "interface", "sent"), [one[1:] for one in TX], ids=[one[0] for one in TX]
)
def test_the_most_exact_pattern_of_the_resources_that_select_this_node_decides(
    configurations: dict[str, BFDConfigurationSpec], interface: str, sent: int
) -> None:
    assert over(interface, configurations)[0].min_tx == sent


def test_what_a_resource_does_not_say_is_calicos_default_and_without_one_the_settings_hold() -> None:
    assert over("eth0", {"default": spec({})}) == (BfdTimers(100, 10, 5, 60_000), ())
    assert over("eth0", {}) == (OURS, ())


def test_what_is_not_kept_is_said_for_the_interfaces_that_it_concerns() -> None:
    fast = said("eth*", 100, minimumRecvInterval="3ms", idleSendInterval="200ms")
    timers, sentences = over("eth0", {"a": spec(fast, said("ens*", 90_000))})
    assert timers == BfdTimers(100, 10, 5, 1000)
    assert sentences == (
        "BFDConfiguration a, eth*: minimumRecvInterval is 3 ms, and 10 ms is used: it is 10 to 60000 here",
        "BFDConfiguration a, eth*: idleSendInterval is 200 ms, and 1000 ms is used: it is 1000 to 60000 here",
    )
    timers, (sentence,) = over("eth0", {"a": spec(said("*", 100)), "b": spec(said("*", 200))})
    assert timers.min_tx == 100
    assert sentence == "BFDConfiguration b: * has other timers in a, which is first by name and holds"
    assert over("eth0", {"a": spec(said("*", 100)), "b": spec(said("*", 100))})[1] == ()
