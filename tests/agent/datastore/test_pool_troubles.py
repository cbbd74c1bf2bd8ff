"""A node whose pods no pool serves says so before the first ADD finds out; a pool for those who name it is one."""

from __future__ import annotations

import pytest

from agent.datastore.pool_troubles import pool_troubles
from agent.datastore.resources.resource_types import (
    IPPool,
    IPPoolSpec,
    Metadata,
    Node,
    NodeBGPSpec,
    NodeSpec,
    encode,
)
from agent.datastore.state_cache import StateCache
from agent.datastore.storage_layout import key_of
from agent.trouble import UNREADY, TroubleKind
from ipam.etcd.store import Versioned
from ipam.model import NodeName

END = "; no pod can be attached here; enable one of them, or have it select this node"


def node(name: str, **labels: str) -> Node:
    spec = NodeSpec(bgp=NodeBGPSpec(ipv4_address="172.26.0.11/20"))
    return Node(metadata=Metadata(name=name, labels=labels or None), spec=spec)


def pool(name: str = "p", **spec: object) -> IPPool:
    given = IPPoolSpec(cidr="10.0.0.0/16", **spec)  # type: ignore[arg-type]
    return IPPool(metadata=Metadata(name=name), spec=given)


def told(*resources: Node | IPPool) -> list[str]:
    state = StateCache(NodeName("n1"))
    for one in resources:
        key = key_of(one)
        state.apply(key, Versioned(key, encode(one), 1))
    found = list(pool_troubles(state))
    assert {one.kind for one in found} <= {TroubleKind.POOL} <= UNREADY
    return [str(one) for one in found]


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ((pool(),), []),
        ((node("n1"),), ["there is no IP pool; no pod can be attached here; apply an IPPool"]),
        ((node("n1"), pool()), []),
        (
            (node("n1"), pool(disabled=True)),
            [f"no IP pool serves this node: p (10.0.0.0/16): is disabled{END}"],
        ),
        (
            (node("n1"), pool(allowed_uses=["Tunnel"])),
            [f"no IP pool serves this node: p (10.0.0.0/16): is not for Workload addresses{END}"],
        ),
        (
            (node("n1", zone="b"), node("n2", zone="a"), pool(node_selector="zone == 'a'")),
            [
                "no IP pool serves this node: p (10.0.0.0/16): does not select node n1 (nodeSelector zone == 'a')"
                f"{END}"
            ],
        ),
        ((node("n1", zone="a"), pool(node_selector="zone == 'a'")), []),
    ],
    ids=["not registered", "none", "one", "disabled", "for tunnels", "selects another", "selects this one"],
)
def test_a_node_without_a_pool_for_its_pods_says_why_each_is_none(
    resources: tuple[Node | IPPool, ...], expected: list[str]
) -> None:
    assert told(*resources) == expected


@pytest.mark.parametrize("spec", [{"assignment_mode": "Manual"}, {"node_selector": "!all()"}])
def test_a_pool_for_those_who_ask_for_it_by_name_is_one(spec: dict[str, str]) -> None:
    assert told(node("n1"), pool(**spec)) == []
