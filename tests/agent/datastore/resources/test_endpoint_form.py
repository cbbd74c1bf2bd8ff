"""An endpoint in Calico's form: whatever it was before, once, and with all that was there."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.datastore.resources.endpoint_form import (
    NAMESPACE_LABEL,
    NETWORK_ANNOTATION,
    ORCHESTRATOR_LABEL,
    in_form,
    is_of_network,
    network_of,
    profile,
    profile_key,
    profile_of,
)
from agent.datastore.resources.resource_types import Metadata, WorkloadEndpoint, WorkloadEndpointSpec

NOW, LATER = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
LABELS = st.none() | st.dictionaries(st.sampled_from([NAMESPACE_LABEL, ORCHESTRATOR_LABEL, "app"]), st.text())
ENDPOINTS = st.builds(
    WorkloadEndpoint,
    metadata=st.builds(
        Metadata,
        name=st.text(),
        namespace=st.none() | st.sampled_from(["", "default", "other"]),
        uid=st.none() | st.sampled_from(["", "u"]),
        creation_timestamp=st.none() | st.sampled_from(["", LATER]),
        labels=LABELS,
        annotations=st.none() | st.dictionaries(st.sampled_from([NETWORK_ANNOTATION, "a"]), st.text()),
    ),
    spec=st.builds(
        WorkloadEndpointSpec,
        node=st.just("n"),
        orchestrator=st.sampled_from(["k8s", "cni", ""]),
        container_id=st.none() | st.text(),
        endpoint=st.just("eth0"),
        interface_name=st.just("cali1"),
        ip_networks=st.just(["10.0.0.1/32"]),
        profiles=st.none() | st.lists(st.sampled_from(["net", "kns.default"]), max_size=2),
    ),
)


def endpoint(profiles: list[str] | None, annotations: dict[str, str] | None = None) -> WorkloadEndpoint:
    return WorkloadEndpoint(
        metadata=Metadata(name="n-k8s-web-eth0", annotations=annotations),
        spec=WorkloadEndpointSpec(
            node="n",
            orchestrator="k8s",
            endpoint="eth0",
            interface_name="cali1",
            ip_networks=[],
            profiles=profiles,
        ),
    )


@given(ENDPOINTS, st.sampled_from(["net", "other"]))
def test_every_endpoint_gets_all_that_libcalico_requires_once_and_loses_nothing(
    before: WorkloadEndpoint, network: str
) -> None:
    after = in_form(before, network, NOW)
    metadata = after.metadata
    assert metadata.uid
    assert metadata.creation_timestamp
    assert metadata.namespace
    assert metadata.labels is not None
    assert metadata.labels[NAMESPACE_LABEL] == metadata.namespace
    assert metadata.labels[ORCHESTRATOR_LABEL] == before.spec.orchestrator
    assert network_of(after) == network
    assert after.spec == before.spec
    assert in_form(after, network, LATER) is after
    for kept in ("uid", "creation_timestamp", "namespace"):
        assert getattr(metadata, kept) == (getattr(before.metadata, kept) or getattr(metadata, kept))
    for label, value in (before.metadata.labels or {}).items():
        assert metadata.labels[label] == value or label in (NAMESPACE_LABEL, ORCHESTRATOR_LABEL)


@pytest.mark.parametrize(
    ("profiles", "said", "network", "alone", "wanted"),
    [
        (["net"], None, "net", True, ("net", "k8s")),
        (["net"], "net", "net", True, ("net", "k8s")),
        (["strict", "net"], "net", "net", True, ("net", "k8s")),
        (["strict"], "net", "net", True, None),
        (None, "net", "net", True, None),
        (["net", "more"], None, "net", False, None),
        (["kns.default", "ksa.default.web"], None, "kns.default", False, None),
        (["other"], None, "other", False, ("other", "k8s")),
        (None, None, "", False, None),
        ([], "", "", False, None),
    ],
)
def test_the_network_of_an_endpoint_and_the_profile_that_it_needs(
    profiles: list[str] | None, said: str | None, network: str, alone: bool, wanted: tuple[str, str] | None
) -> None:
    found = endpoint(profiles, {NETWORK_ANNOTATION: said} if said is not None else None)
    assert (network_of(found), is_of_network(found, "net"), profile_of(found)) == (network, alone, wanted)


@given(st.text(), st.sampled_from(["k8s", "cni"]))
def test_a_profile_of_any_name_is_json_and_says_its_name(network: str, orchestrator: str) -> None:
    assert json.loads(profile(network, orchestrator, NOW))["spec"]["labelsToApply"] == {network: ""}
    assert profile_key(network).startswith("/calico/resources/v3/projectcalico.org/profiles/")
