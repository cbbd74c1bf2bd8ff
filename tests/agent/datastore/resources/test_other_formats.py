"""Files as people have them: lists, Calico's API in Kubernetes, Calico 2, and documents of other programs beside."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.datastore.resources.documents import InvalidDocument, read
from agent.datastore.resources.other_formats import OTHER_KINDS
from agent.datastore.resources.resource_types import KINDS, kind_of
from agent.datastore.storage_layout import to_document

V3 = "projectcalico.org/v3"
CRD_POOL = """\
apiVersion: crd.projectcalico.org/v1
kind: IPPool
metadata:
  annotations:
    projectcalico.org/metadata: '{"uid":"1-2","creationTimestamp":"2024-01-02T03:04:05Z","labels":{"site":"a"}}'
    example.org/why: mine
  creationTimestamp: "2024-01-02T03:04:05Z"
  generation: 3
  managedFields: [{manager: x}]
  name: default-ipv4-ippool
  resourceVersion: "12345"
  uid: 1-2
spec:
  allowedUses: [Workload, Tunnel]
  blockSize: 26
  cidr: 10.60.0.0/16
  ipipMode: Never
  natOutgoing: true
  nodeSelector: all()
  vxlanMode: Always
"""


def faults(text: str) -> list[str]:
    with pytest.raises(InvalidDocument) as caught:
        read(text, "f")
    return caught.value.sentences


def indented(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines())


def test_a_resource_as_kubectl_prints_it_is_the_resource_that_it_means() -> None:
    for text in (
        CRD_POOL,
        f"apiVersion: v1\nkind: List\nmetadata:\n  resourceVersion: ''\nitems:\n-{indented(CRD_POOL)[1:]}",
    ):
        (found,) = read(text, "f")
        assert to_document(found.resource) == {
            "apiVersion": V3,
            "kind": "IPPool",
            "metadata": {
                "name": "default-ipv4-ippool",
                "labels": {"site": "a"},
                "annotations": {"example.org/why": "mine"},
            },
            "spec": {
                "allowedUses": ["Workload", "Tunnel"],
                "blockSize": 26,
                "cidr": "10.60.0.0/16",
                "ipipMode": "Never",
                "natOutgoing": True,
                "nodeSelector": "all()",
                "vxlanMode": "Always",
            },
        }


@pytest.mark.parametrize("kind", ["IPAMConfig", "IPAMConfiguration"])
@pytest.mark.parametrize("version", [V3, "crd.projectcalico.org/v1"])
def test_the_rules_of_allocation_are_taken_by_their_name_in_kubernetes(kind: str, version: str) -> None:
    raw = {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": "default", "annotations": {"projectcalico.org/metadata": "{}"}},
        "spec": {"strictAffinity": True, "autoAllocateBlocks": True, "maxBlocksPerHost": 4},
    }
    if version == V3:
        del raw["metadata"]["annotations"]  # type: ignore[attr-defined]
    (found,) = read(json.dumps(raw), "f")
    assert kind_of(found.resource) == "IPAMConfiguration"
    assert to_document(found.resource)["spec"]["maxBlocksPerHost"] == 4


def test_a_list_of_one_kind_need_not_say_it_again_of_each_item() -> None:
    pools = [
        {"metadata": {"name": name}, "spec": {"cidr": cidr}}
        for name, cidr in (("a", "10.1.0.0/16"), ("b", "10.2.0.0/16"))
    ]
    found = read(json.dumps({"kind": "IPPoolList", "apiVersion": V3, "items": pools}), "f")
    assert [kind_of(one.resource) for one in found] == ["IPPool", "IPPool"]
    assert read('{"kind": "List", "apiVersion": "v1", "items": []}', "f") == []


OLD: list[tuple[dict[str, Any], dict[str, Any] | None]] = [
    (
        {
            "kind": "ipPool",
            "metadata": {"cidr": "10.1.0.0/16"},
            "spec": {"ipip": {"enabled": True, "mode": "cross-subnet"}, "nat-outgoing": True},
        },
        {
            "kind": "IPPool",
            "metadata": {"name": "10-1-0-0-16"},
            "spec": {"cidr": "10.1.0.0/16", "ipipMode": "CrossSubnet", "natOutgoing": True},
        },
    ),
    (
        {"kind": "ipPool", "metadata": {"cidr": "FD00:1:0::/64"}, "spec": {"disabled": True}},
        {
            "kind": "IPPool",
            "metadata": {"name": "fd00-1-0-64"},
            "spec": {"cidr": "fd00:1::/64", "ipipMode": "Never", "disabled": True},
        },
    ),
    (
        {
            "kind": "bgpPeer",
            "metadata": {"scope": "node", "node": "n1", "peerIP": "10.0.0.1"},
            "spec": {"asNumber": 64513},
        },
        {
            "kind": "BGPPeer",
            "metadata": {"name": "n1-10-0-0-1"},
            "spec": {"peerIP": "10.0.0.1", "asNumber": 64513, "node": "n1"},
        },
    ),
    (
        {"kind": "node", "metadata": {"name": "n1"}, "spec": {"bgp": {"ipv4Address": "10.0.0.1/24"}}},
        {"kind": "Node", "metadata": {"name": "n1"}, "spec": {"bgp": {"ipv4Address": "10.0.0.1/24"}}},
    ),
    ({"kind": "policy", "metadata": {"name": "p"}, "spec": {}}, None),
    (
        {"kind": "ipPool", "metadata": None, "spec": [1]},
        {"kind": "IPPool", "metadata": {"name": ""}, "spec": {"cidr": "", "ipipMode": "Never"}},
    ),
]


@pytest.mark.parametrize(
    ("raw", "today"), OLD, ids=[f"{raw['kind']}-{index}" for index, (raw, _) in enumerate(OLD)]
)
def test_a_resource_of_calico_2_is_refused_with_what_it_is_today(
    raw: dict[str, Any], today: dict[str, Any] | None
) -> None:
    (sentence,) = faults(json.dumps({"apiVersion": "v1", **raw}))
    assert sentence.startswith(f"f: line 1: {raw['kind']}")
    assert "apiVersion: expected projectcalico.org/v3, got 'v1': a resource of Calico 2" in sentence
    assert "calicoctl convert" in sentence
    if today is not None:
        written = json.loads(sentence.partition("; write it as ")[2])
        assert written == {"apiVersion": V3, **today}
        if today["metadata"]["name"]:
            (found,) = read(json.dumps(written), "f")
            assert found.refusals == []


SITE = """\
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: site-a}
spec: {cidr: 10.61.0.0/16}
---
apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {name: default}
spec: {vxlanMTU: 1450}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: notes}
data: {a: b}
"""


def test_a_document_of_another_program_is_named_with_what_to_do() -> None:
    felix, notes = faults(SITE)
    assert felix == (
        "f: document 2, line 7: kind: FelixConfiguration is Calico's, and not used by this program: this program has "
        "settings of its own; see: tortie config reference; leave it out, or pass over it with --skip-other-kinds"
    )
    assert notes.startswith("f: document 3, line 12: kind: 'ConfigMap' is not a kind this program knows (")
    assert notes.endswith("; pass over it with --skip-other-kinds")


def test_documents_of_other_programs_are_passed_over_when_asked_and_each_is_named() -> None:
    passed_over: list[str] = []
    (found,) = read(SITE, "f", passed_over=passed_over)
    assert found.resource.metadata.name == "site-a"
    assert passed_over == [
        "f: document 2, line 7: FelixConfiguration default: passed over",
        "f: document 3, line 12: ConfigMap notes: passed over",
    ]


@pytest.mark.parametrize("kind", sorted(OTHER_KINDS))
def test_every_other_kind_of_calicos_is_known_by_its_name_and_may_be_passed_over(kind: str) -> None:
    assert kind not in KINDS
    for version in (V3, "crd.projectcalico.org/v1"):
        text = json.dumps({"apiVersion": version, "kind": kind, "metadata": {"name": "x"}})
        (sentence,) = faults(text)
        assert sentence.startswith(f"f: line 1: kind: {kind} is Calico's, and not used by this program: ")
        assert "did you mean" not in sentence
        assert read(text, "f", passed_over=[]) == []


@pytest.mark.parametrize(
    ("kind", "version"),
    [
        ("ippool", V3),
        ("IPPol", None),
        ("BGPpeer", V3),
        ("IPPool", "v1"),
        ("BGPFilter", "v1"),
        ("ipPool", "v1"),
        ("IPPool", "projectcalico.org/v4"),
        (None, None),
        (3, "v1"),
    ],
)
def test_what_may_be_one_of_our_kinds_misspelt_is_never_passed_over(
    kind: object, version: str | None
) -> None:
    raw = {"kind": kind, "metadata": {"name": "x"}, "spec": {}} | ({"apiVersion": version} if version else {})
    with pytest.raises(InvalidDocument):
        read(json.dumps(raw), "f", passed_over=[])


def test_kubernetes_own_node_is_none_of_calicos() -> None:
    raw = json.dumps({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "spec": {}})
    assert faults(raw) == ["f: line 1: Node n: apiVersion: expected projectcalico.org/v3, got 'v1'"]
    assert read(raw, "f", passed_over=[]) == []


def test_what_is_passed_over_cannot_write_to_the_terminal_that_hears_of_it() -> None:
    passed_over: list[str] = []
    raw = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a\x1b[2Jb"}}
    read(json.dumps(raw), "f", passed_over=passed_over)
    assert passed_over == ["f: line 1: Secret a\\x1b[2Jb: passed over"]
