"""A file says what is wrong with it: which file, which document, which field."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.datastore.resources.documents import InvalidDocument, read
from agent.datastore.resources.ip_pool import overlap_error, pool
from agent.datastore.resources.resource_types import IPPool, encode, endpoint_name
from agent.datastore.storage_layout import key_of, read_valid
from agent.lab.lifecycle import SEED_POOL
from ipam.etcd.store import Versioned


def ippool(**spec: object) -> str:
    document = {
        "apiVersion": "projectcalico.org/v3",
        "kind": "IPPool",
        "metadata": {"name": "p"},
        "spec": spec,
    }
    return json.dumps(document)


def faults(text: str) -> list[str]:
    with pytest.raises(InvalidDocument) as caught:
        read(text, "pool.yaml")
    return caught.value.sentences


def test_the_articles_pool_is_read_as_it_is() -> None:
    (found,) = read(SEED_POOL.read_text(), "pool.json")
    assert isinstance(found.resource, IPPool)
    made = pool(found.resource)
    assert (str(made.cidr), made.ipip.value, made.vxlan.value, made.block_length) == (
        "192.168.0.0/16",
        "Always",
        "Never",
        26,
    )
    assert made.nat_outgoing


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (ippool(), "spec: object missing required field cidr"),
        (ippool(cidr="banana"), "spec.cidr: 'banana' is not a network in CIDR form, such as 192.168.0.0/16"),
        (ippool(cidr="10.0.0.1/16"), "spec.cidr: 10.0.0.1/16 has host bits set; the network is 10.0.0.0/16"),
        (ippool(cidr="10.0.0.0/16", blocksize=26), "spec.blocksize: unknown field; did you mean blockSize?"),
        (ippool(cidr="10.0.0.0/16", blockSize="26"), "spec.blockSize: expected int | null, got str"),
        (ippool(cidr="10.0.0.0/16", blockSize=19), "spec.blockSize: 19 is outside 20 to 32 for IPv4"),
        (
            ippool(cidr="10.0.0.0/28"),
            "spec.blockSize: a block of /26 does not fit into 10.0.0.0/28; choose 28 or more",
        ),
        (
            ippool(cidr="10.0.0.0/16", ipipMode="always"),
            "spec.ipipMode: 'always' is none of Never, Always, CrossSubnet",
        ),
        (
            ippool(cidr="10.0.0.0/16", ipipMode="Always", vxlanMode="Always"),
            "spec.ipipMode: exclude each other with vxlanMode; set one of them to Never",
        ),
        (
            ippool(cidr="fd00::/48", ipipMode="Always"),
            "spec.ipipMode: IPIP carries IPv4 only; use vxlanMode or Never for an IPv6 pool",
        ),
        *[
            (ippool(cidr=cidr), f"spec.cidr: {cidr} is IPv4 written as IPv6; write 10.9.0.0/24")
            for cidr in ("::ffff:10.9.0.0/120", "::ffff:a09:0/120")
        ],
        (ippool(cidr="10.0.0.1", blockSize=32), "spec.cidr: write 10.0.0.1 with its length, 10.0.0.1/32"),
        (ippool(cidr="169.254.0.0/20"), "spec.cidr: 169.254.0.0/20 overlaps the link-local range"),
        (
            ippool(cidr="10.0.0.0/16", allowedUses=["Pods"]),
            "spec.allowedUses: 'Pods' is none of Workload, Tunnel, LoadBalancer",
        ),
    ],
)
def test_a_wrong_pool_is_one_sentence_with_file_and_field(text: str, sentence: str) -> None:
    assert faults(text) == [f"pool.yaml: line 1: IPPool p: {sentence}"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "pool.yaml: line 2, column 1: not YAML or JSON: "),
        ("", "pool.yaml: holds no document"),
        ("- a", "pool.yaml: line 1: expected a resource with kind, metadata and spec, got list"),
        (
            "kind: IPPol",
            "pool.yaml: line 1: kind: 'IPPol' is not a kind this program knows (IPPool, Node, BGPConfiguration, ",
        ),
        ("kind: IPPoolList", "pool.yaml: line 1: items: a IPPoolList needs a list of items"),
        (
            "kind: IPPool\napiVersion: v1",
            "pool.yaml: line 2: IPPool: apiVersion: expected projectcalico.org/v3, got 'v1'",
        ),
    ],
)
def test_what_is_no_resource_is_said_with_its_place(text: str, sentence: str) -> None:
    assert faults(text)[0].startswith(sentence)


def test_every_wrong_document_is_named_not_only_the_first() -> None:
    text = f"{ippool(cidr='x')}\n---\n{ippool(cidr='10.0.0.0/16')}\n---\n{ippool(cidr='y')}"
    assert [sentence.split(": IPPool")[0] for sentence in faults(text)] == [
        "pool.yaml: document 1, line 1",
        "pool.yaml: document 3, line 5",
    ]


def test_a_wrong_selector_is_a_fault_of_its_field() -> None:
    assert faults(ippool(cidr="10.0.0.0/16", nodeSelector="rack ==="))[0].startswith(
        "pool.yaml: line 1: IPPool p: spec.nodeSelector: "
    )


def test_a_pool_of_global_things_is_not_written() -> None:
    (fault,) = faults(ippool(cidr="10.0.0.0/16", nodeSelector="global()"))
    assert fault.endswith("spec.nodeSelector: global() is for policies, not for pools; use all()")


def test_a_stored_resource_reads_back_equal_and_without_its_revision() -> None:
    (found,) = read(SEED_POOL.read_text(), "pool.json")
    stored = encode(found.resource)
    assert b"resourceVersion" not in stored
    again = read_valid(IPPool, Versioned(key_of(found.resource), stored, 7))
    assert again.metadata.resource_version == "7"
    assert again.spec == found.resource.spec


def test_overlapping_pools_are_found_and_a_pool_does_not_overlap_itself(tmp_path: Path) -> None:
    def made(name: str, cidr: str) -> IPPool:
        document = json.loads(ippool(cidr=cidr))
        document["metadata"]["name"] = name
        resource = read(json.dumps(document), "f")[0].resource
        assert isinstance(resource, IPPool)
        return resource

    one, same, inside, apart = (
        pool(made(*args))
        for args in (("a", "10.0.0.0/16"), ("a", "10.0.0.0/16"), ("b", "10.0.4.0/24"), ("c", "10.1.0.0/16"))
    )
    assert overlap_error(one, [same, apart]) is None
    assert overlap_error(one, [apart, inside]) == "spec.cidr: 10.0.0.0/16 overlaps pool b (10.0.4.0/24)"


def test_a_dash_in_a_name_cannot_be_mistaken_for_a_border() -> None:
    assert endpoint_name("node-1", "k8s", "web-0", "eth0") == "node--1-k8s-web--0-eth0"
