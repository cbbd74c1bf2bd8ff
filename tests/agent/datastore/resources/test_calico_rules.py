"""Which documents calicoctl would write, and which not: the verdicts of libcalico-go's validator, by table.

What is refused here and taken by Calico is in docs/resources.md, with the reason.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.datastore.resources.documents import InvalidDocument, read
from agent.datastore.resources.resource_types import KINDS
from agent.datastore.storage_layout import key_by_name, read_valid, stored_bytes
from ipam.etcd.store import Versioned

POOL = {"cidr": "10.0.0.0/16"}
PEER = {"peerIP": "10.0.0.9", "asNumber": 65001}
ADVERTISED = {"prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["c"]}]}
NAMES_TAKEN = ("a", "0", "a-b", "a.b", "a.b-c.d0", "x" * 253, "1.2.3.4")
NAMES_REFUSED = ("X", "a/b", "a_b", "-a", "a-", "a..b", ".a", "a.", "a:b", "a%b", "a.-b")

Case = tuple[str, str, dict[str, Any], str]
"""Kind, name, spec, and how the one sentence about it begins; empty: Calico takes it."""


def load_balancer(**more: Any) -> dict[str, Any]:
    return {**POOL, "allowedUses": ["LoadBalancer"], **more}


CASES: list[Case] = [
    *(("IPPool", name, POOL, "") for name in NAMES_TAKEN),
    *(("IPPool", name, POOL, "metadata.name: ") for name in NAMES_REFUSED),
    *(
        (kind, name, spec, sentence)
        for kind, spec in (("BGPPeer", PEER), ("BGPFilter", {}), ("IPReservation", {}), ("Node", {}))
        for name, sentence in (
            ("a.b", ""),
            ("X", "metadata.name: "),
            ("a/b", "metadata.name: "),
            ("a_b", "metadata.name: "),
        )
    ),
    ("IPPool", "p", load_balancer(), ""),
    ("IPPool", "p", load_balancer(nodeSelector="all()"), ""),
    ("IPPool", "p", load_balancer(natOutgoing=True, assignmentMode="Manual"), ""),
    ("IPPool", "p", load_balancer(allowedUses=["LoadBalancer", "Workload"]), "spec.allowedUses: "),
    ("IPPool", "p", load_balancer(allowedUses=["Tunnel", "LoadBalancer"]), "spec.allowedUses: "),
    ("IPPool", "p", load_balancer(ipipMode="Always"), "spec.ipipMode: "),
    ("IPPool", "p", load_balancer(vxlanMode="CrossSubnet"), "spec.vxlanMode: "),
    ("IPPool", "p", load_balancer(disableBGPExport=True), "spec.disableBGPExport: "),
    ("IPPool", "p", load_balancer(nodeSelector="has(rack)"), "spec.nodeSelector: "),
    ("IPPool", "p", {**POOL, "allowedUses": ["Workload"]}, ""),
    ("IPPool", "p", {**POOL, "allowedUses": ["Tunnel", "Workload"], "disableBGPExport": True}, ""),
    ("IPPool", "p", {**POOL, "namespaceSelector": "all()", "allowedUses": ["Workload"]}, ""),
    (
        "IPPool",
        "p",
        {**POOL, "namespaceSelector": "all()", "allowedUses": ["Workload", "Tunnel"]},
        "spec.namespaceSelector: ",
    ),
    (
        "IPPool",
        "p",
        {**POOL, "namespaceSelector": "global()"},
        "spec.namespaceSelector: global() is for policies",
    ),
    ("IPPool", "p", {**POOL, "blockSize": 20}, ""),
    ("IPPool", "p", {"cidr": "10.0.0.0/28", "disabled": True}, ""),
    ("BGPConfiguration", "default", {"nodeToNodeMeshEnabled": True, "asNumber": 65000}, ""),
    ("BGPConfiguration", "node.a", {"listenPort": 1790, "logSeverityScreen": "Debug"}, ""),
    (
        "BGPConfiguration",
        "node.a",
        {"prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["1:2"]}]},
        "",
    ),
    ("BGPConfiguration", "node.A", {"listenPort": 1790}, "metadata.name: "),
    ("BGPConfiguration", "node.a", {"asNumber": 65000}, "spec.asNumber: belongs to the object default"),
    ("BGPConfiguration", "node.a", {"nodeToNodeMeshEnabled": False}, "spec.nodeToNodeMeshEnabled: belongs"),
    *(
        ("BGPConfiguration", "node.a", {word: [{"cidr": "10.96.0.0/12"}]}, f"spec.{word}: belongs")
        for word in ("serviceClusterIPs", "serviceExternalIPs", "serviceLoadBalancerIPs")
    ),
    ("BGPConfiguration", "node.a", {"nodeMeshMaxRestartTime": "90s"}, "spec.nodeMeshMaxRestartTime: belongs"),
    *(
        ("BGPConfiguration", "default", {"logSeverityScreen": word}, "")
        for word in ("Trace", "Debug", "Info", "Warning", "Error", "Fatal")
    ),
    ("BGPConfiguration", "default", {"logSeverityScreen": "Loud"}, "spec.logSeverityScreen: "),
    ("BGPConfiguration", "default", {"serviceLoadBalancerAggregation": "Enabled"}, ""),
    (
        "BGPConfiguration",
        "default",
        {"serviceLoadBalancerAggregation": "on"},
        "spec.serviceLoadBalancerAggregation: ",
    ),
    ("BGPConfiguration", "default", {"programClusterRoutes": "Disabled"}, ""),
    ("BGPConfiguration", "default", {"programClusterRoutes": "yes"}, "spec.programClusterRoutes: "),
    ("BGPConfiguration", "default", {"ignoredInterfaces": ["eth0", "docker*", "*cali*"]}, ""),
    ("BGPConfiguration", "default", {"ignoredInterfaces": ["eth0", "*"]}, "spec.ignoredInterfaces[1]: "),
    ("BGPConfiguration", "default", {"ignoredInterfaces": ["a b"]}, "spec.ignoredInterfaces[0]: "),
    ("BGPConfiguration", "default", {"localWorkloadPeeringIPV4": "169.254.1.1"}, ""),
    (
        "BGPConfiguration",
        "default",
        {"localWorkloadPeeringIPV4": "fd00::1"},
        "spec.localWorkloadPeeringIPV4: ",
    ),
    ("BGPConfiguration", "default", {"localWorkloadPeeringIPV6": "x"}, "spec.localWorkloadPeeringIPV6: "),
    ("BGPConfiguration", "default", {**ADVERTISED, "communities": [{"name": "c", "value": "1:2"}]}, ""),
    ("BGPConfiguration", "default", {"communities": [{"name": "c", "value": "1:2"}]}, "spec.communities: "),
    (
        "BGPConfiguration",
        "default",
        {**ADVERTISED, "communities": [{"name": "c", "value": "1:2"}, {"name": "C", "value": "1:2"}]},
        "spec.communities[1].name: ",
    ),
    (
        "BGPConfiguration",
        "default",
        {"prefixAdvertisements": [{"cidr": "10.0.0.0/8"}]},
        "spec.prefixAdvertisements[0].communities: must be given",
    ),
    (
        "BGPConfiguration",
        "node.a",
        ADVERTISED,
        "spec.prefixAdvertisements[0].communities: 'c' is named in no communities",
    ),
    ("BGPPeer", "p", {**PEER, "node": "n1.site"}, ""),
    ("BGPPeer", "p", {**PEER, "node": "N1"}, "spec.node: "),
    ("BGPPeer", "p", {**PEER, "filters": ["f", "a.b"]}, ""),
    ("BGPPeer", "p", {**PEER, "peerIP": "fe80::1%eth0"}, ""),
    ("BGPPeer", "p", {**PEER, "peerIP": "fd00::1", "reachableBy": "fe80::1%eth0"}, "spec.reachableBy: "),
    ("BGPPeer", "p", {**PEER, "filters": ["f", "F"]}, "spec.filters[1]: "),
    ("BGPPeer", "p", {**PEER, "filters": [None]}, "spec.filters[0]: "),
    (
        "Node",
        "n",
        {
            "addresses": [
                {"address": "10.0.0.1", "type": "InternalIP"},
                {"address": "10.0.0.1/24", "type": "CalicoNodeIP"},
            ]
        },
        "",
    ),
    ("Node", "n", {"addresses": [{"address": "10.0.0.1", "type": "Inside"}]}, "spec.addresses[0].type: "),
    ("Node", "n", {"wireguard": {"interfaceIPv4Address": "10.0.0.5"}}, ""),
    (
        "Node",
        "n",
        {"wireguard": {"interfaceIPv4Address": "fd00::1"}},
        "spec.wireguard.interfaceIPv4Address: ",
    ),
    ("IPAMConfiguration", "default", {"kubeVirtVMAddressPersistence": "Enabled"}, ""),
    (
        "IPAMConfiguration",
        "default",
        {"kubeVirtVMAddressPersistence": "Yes"},
        "spec.kubeVirtVMAddressPersistence: ",
    ),
]


def text(kind: str, name: str, spec: dict[str, Any], **metadata: Any) -> str:
    raw = {
        "apiVersion": "projectcalico.org/v3",
        "kind": kind,
        "metadata": {"name": name, **metadata},
        "spec": spec,
    }
    return json.dumps(raw)


@pytest.mark.parametrize(
    ("kind", "name", "spec", "sentence"),
    CASES,
    ids=[f"{index}-{case[0]}" for index, case in enumerate(CASES)],
)
def test_a_document_is_judged_as_calico_judges_it(
    kind: str, name: str, spec: dict[str, Any], sentence: str
) -> None:
    (found,) = read(text(kind, name, spec), "f")
    if sentence:
        (said,) = found.refusals
        assert said.startswith(sentence)
    else:
        assert found.refusals == []


@pytest.mark.parametrize(
    "case", [case for case in CASES if case[3]], ids=lambda case: f"{case[0]}-{case[3][:40]}"
)
def test_what_is_stored_so_already_is_used_all_the_same(case: Case) -> None:
    kind, name, spec, _ = case
    if kind == "IPAMConfiguration" or "%" in name:
        return  # the first is read otherwise, and the key of the second is written otherwise
    value = Versioned(key_by_name(kind, name), text(kind, name, spec).encode(), 7)
    found = read_valid(KINDS[kind], value)
    assert json.loads(stored_bytes(found, value))["spec"].keys() == spec.keys()


LABELS: list[tuple[dict[str, Any], str]] = [
    ({"labels": {"a": "b", "example.org/a.b_c-d": "", "x" * 63: "y" * 63}}, ""),
    ({"labels": {"Example.org/a": "b"}}, "metadata.labels.Example.org/a: "),
    ({"labels": {"a..b/c": "b"}}, "metadata.labels.a..b/c: "),
    ({"labels": {"a/b/c": "b"}}, "metadata.labels.a/b/c: "),
    ({"labels": {"/a": "b"}}, "metadata.labels./a: "),
    ({"labels": {"a/": "b"}}, "metadata.labels.a/: "),
    ({"labels": {"x" * 64: "b"}}, f"metadata.labels.{'x' * 64}: "),
    ({"labels": {"a": "b c"}}, "metadata.labels.a: "),
    ({"labels": {"a": None}}, ""),
    ({"annotations": {"Example.org/A": "any thing\n"}}, ""),
    ({"annotations": {"a b": "x"}}, "metadata.annotations.a b: "),
]


@pytest.mark.parametrize(("metadata", "sentence"), LABELS)
def test_labels_and_annotations_are_judged_as_kubernetes_judges_them(
    metadata: dict[str, Any], sentence: str
) -> None:
    if not sentence:
        (found,) = read(text("IPPool", "p", POOL, **metadata), "f")
        assert found.refusals == []
        return
    with pytest.raises(InvalidDocument) as caught:
        read(text("IPPool", "p", POOL, **metadata), "f")
    assert [said.startswith(f"f: line 1: IPPool p: {sentence}") for said in caught.value.sentences] == [True]


def test_annotations_are_at_most_256_kib_together() -> None:
    (found,) = read(text("IPPool", "p", POOL, annotations={"a": "x" * (256 << 10)}), "f")
    assert found.refusals == ["metadata.annotations: 262145 bytes are more than 262144"]


def test_a_field_of_metadata_that_nobody_knows_is_refused_and_what_kubernetes_notes_is_not() -> None:
    (found,) = read(text("IPPool", "p", POOL, generation=3, managedFields=[{}], ownerReferences=[]), "f")
    assert found.refusals == []
    with pytest.raises(InvalidDocument, match=r"metadata\.lables: unknown field; did you mean labels\?"):
        read(text("IPPool", "p", POOL, lables={"a": "b"}), "f")
