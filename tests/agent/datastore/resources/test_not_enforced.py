"""What asks for something that this agent does not do, what does not, and how it is said; the page has every limit."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.datastore.resources.endpoint_form import profile
from agent.datastore.resources.not_enforced import (
    FIELD_LIMITS,
    KIND_LIMITS,
    limit_troubles,
    profile_asks,
    read_spec,
    samples,
    sentence,
    tier_asks,
)
from ipam.etcd.store import Versioned
from ipam.failures import Unreadable
from ipam.keys import resource_key
from tests import ROOT
from tests.scenes.datastore.damages import document

ALLOW = {"action": "Allow", "source": {}, "destination": {}}
PLURALS = {limit.kind: limit.plural for limit in KIND_LIMITS} | {"FelixConfiguration": "felixconfigurations"}


def read(kind: str, name: str, value: bytes) -> Any:
    return read_spec(kind, PLURALS[kind], Versioned(resource_key(PLURALS[kind], name), value, 7))[1]


def stored(kind: str, name: str, spec: object) -> Any:
    return read(kind, name, document(kind, name, spec))


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("kns.default", {"ingress": [ALLOW], "egress": [ALLOW], "labelsToApply": {"pcns.x": "y"}}),
        ("kns.default", {"ingress": [{"action": "Allow"}], "egress": [{"action": "Allow"}]}),
        ("kns.log", {"ingress": [{"action": "Log"}, ALLOW], "egress": [ALLOW]}),
        ("ksa.default.default", {"labelsToApply": {"pcsa.x": "y"}}),
        ("ksa.default.default", {}),
        ("net", {"ingress": [{"action": "Allow", "source": {"selector": "has(net)"}}], "egress": [ALLOW]}),
    ],
)
def test_what_calico_writes_by_itself_asks_for_nothing(name: str, spec: dict[str, Any]) -> None:
    assert not profile_asks(name, stored("Profile", name, spec))


@pytest.mark.parametrize("orchestrator", ["cni", "k8s"])
def test_the_profile_of_a_network_that_this_agent_makes_asks_for_nothing(orchestrator: str) -> None:
    made = profile("net", orchestrator, "2026-01-01T00:00:00Z")
    assert not profile_asks("net", read("Profile", "net", made))


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("kns.default", {"ingress": [{"action": "Deny"}], "egress": [ALLOW]}),
        (
            "kns.default",
            {"ingress": [{"action": "Deny", "source": {"nets": ["10.0.0.0/8"]}}, ALLOW], "egress": [ALLOW]},
        ),
        ("kns.default", {"ingress": [ALLOW], "egress": []}),
        ("kns.default", {"ingress": [ALLOW]}),
        ("closed", {}),
        ("net", {"ingress": [{"action": "Allow", "source": {"selector": "has(other)"}}], "egress": [ALLOW]}),
        (
            "web",
            {
                "ingress": [{"action": "Allow", "protocol": "TCP", "destination": {"ports": [80]}}],
                "egress": [ALLOW],
            },
        ),
    ],
)
def test_a_profile_that_keeps_something_from_its_pods_asks_for_it(name: str, spec: dict[str, Any]) -> None:
    assert profile_asks(name, stored("Profile", name, spec))


def test_calicos_own_tiers_ask_for_nothing() -> None:
    assert not any(
        tier_asks(name, {}) for name in ("default", "kube-admin", "kube-baseline", "adminnetworkpolicy")
    )
    assert tier_asks("security", {"order": 10})


def test_kinds_of_one_word_are_counted_together() -> None:
    counts = {"NetworkPolicy": 2, "GlobalNetworkPolicy": 3, "HostEndpoint": 1, "Tier": 0}
    said = "5 policies, 1 host endpoint in this datastore are not enforced by this agent"
    assert sentence(counts) == said
    assert sentence({"HostEndpoint": 1}) == "1 host endpoint in this datastore is not enforced by this agent"
    assert sentence({"HostEndpoint": 0}) is None
    (trouble,) = limit_troubles(counts, {})
    assert str(trouble) == f"{said}; every packet passes that they would drop; see docs/limits.md"


def test_a_field_is_told_by_itself_and_only_while_it_asks() -> None:
    specs = {
        "FelixConfiguration": {
            "wireguardEnabled": True,
            "vxlanVNI": 4096,
            "bpfEnabled": False,
            "vxlanPort": 8472,
        }
    }
    texts = [str(trouble) for trouble in limit_troubles({}, specs)]
    assert len(texts) == 2
    assert (
        "wireguardEnabled is true, which this agent does not do; packets between nodes are not encrypted"
        in texts[0]
    )
    assert "vxlanPort is 8472" in texts[1]
    found = samples({"Tier": 2}, specs)
    assert (
        found["Tier"],
        found["FelixConfiguration.wireguardEnabled"],
        found["FelixConfiguration.vxlanVNI"],
    ) == (2, 1, 0)


@pytest.mark.parametrize(
    "spec",
    [
        {"wireguardEnabled": "yes"},
        {"vxlanVNI": "4096"},
        {"externalNodesList": "10.0.0.0/8"},
        {"bpfEnabled": []},
    ],
)
def test_a_field_of_another_type_is_unreadable(spec: dict[str, Any]) -> None:
    with pytest.raises(Unreadable, match=f"spec.{next(iter(spec))}"):
        stored("FelixConfiguration", "default", spec)


@given(
    st.sampled_from(["Profile", "Tier", "FelixConfiguration"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["spec", "kind", "metadata", "name", "ingress"]), inner)
        ),
    ),
)
def test_whatever_is_stored_is_read_or_unreadable(kind: str, raw: object) -> None:
    try:
        spec = read(kind, "default", json.dumps(raw).encode(errors="replace"))
    except Unreadable:
        return
    profile_asks("default", spec)
    list(limit_troubles({}, {kind: spec}))


def test_the_page_names_every_limit_and_no_other() -> None:
    page = (ROOT / "docs" / "limits.md").read_text()
    rows = "\n".join(line.split("|")[1] for line in page.splitlines() if line.startswith("|"))
    for limit in FIELD_LIMITS:
        assert limit.name in rows.replace(",", " ").split()
    words = rows.replace(",", " ").split()
    assert [
        word for word in words if "." in word and word not in {limit.name for limit in FIELD_LIMITS}
    ] == []
    for kind in KIND_LIMITS:
        assert kind.kind in words
