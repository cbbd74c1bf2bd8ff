"""The CNI specification's rules, version by version."""

from __future__ import annotations

import json
from ipaddress import IPv4Address

import pytest

from agent.cni.attachment import Attachment, endpoint, handle, host_interface, mac_of, stored_name
from agent.cni.plugin import spec
from agent.cni.plugin.options import CniError
from agent.cni.plugin.spec import Verb
from agent.cni.results import render

CONFIG = {"cniVersion": "1.0.0", "name": "k8s-pod-network", "type": "tortie"}
ENVIRONMENT = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "0123456789abcdef",
    "CNI_NETNS": "/run/netns/x",
    "CNI_IFNAME": "eth0",
    "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=nginx",
}


def parsed(environment: dict[str, str] | None = None, **config: object) -> spec.Request:
    return spec.parse({**ENVIRONMENT, **(environment or {})}, json.dumps({**CONFIG, **config}).encode())


def test_an_add_of_kubernetes_is_read_whole() -> None:
    request = parsed(ipam={"ipv4_pools": ["a"]}, mtu=1400)
    assert (request.verb, request.version, request.network) == (Verb.ADD, "1.0.0", "k8s-pod-network")
    assert (request.pod, request.namespace, request.options.ipv4_pools, request.options.mtu) == (
        "nginx",
        "default",
        ("a",),
        1400,
    )


def test_pools_are_named_by_their_network_however_it_is_written() -> None:
    ipam = {"ipv4_pools": ["192.168.9.1/16", "Name/x"], "ipv6_pools": ["FD10:0244:0::/64", "v6-pool"]}
    options = parsed(ipam=ipam).options
    assert options.ipv4_pools == ("192.168.0.0/16", "Name/x")
    assert options.ipv6_pools == ("fd10:244::/64", "v6-pool")


@pytest.mark.parametrize(
    ("environment", "config", "code", "words"),
    [
        (
            {"CNI_COMMAND": "FLY"},
            {},
            4,
            "CNI_COMMAND 'FLY' is not one of ADD, DEL, CHECK, STATUS, GC, VERSION",
        ),
        ({"CNI_NETNS": "", "CNI_IFNAME": ""}, {}, 4, "ADD needs CNI_NETNS, CNI_IFNAME in its environment"),
        ({"CNI_CONTAINERID": "../x"}, {}, 4, "CNI_CONTAINERID '../x'"),
        ({"CNI_IFNAME": "a-name-too-long-for-it"}, {}, 4, "CNI_IFNAME"),
        ({"CNI_IFNAME": "a/b"}, {}, 4, "CNI_IFNAME 'a/b'"),
        ({"CNI_ARGS": "K8S_POD_NAME"}, {}, 4, "CNI_ARGS: 'K8S_POD_NAME' is not of the form KEY=VALUE"),
        ({}, {"cniVersion": "2.0.0"}, 1, "cniVersion '2.0.0' is not supported"),
        ({}, {"name": "no good"}, 7, "name: 'no good' is not a network's name"),
        ({}, {"mtu": 5}, 7, "mtu: 5 must be a number from 68 to 65535"),
        (
            {},
            {"ipam": {"ipv4_pools": "a"}},
            7,
            "ipam.ipv4_pools: must be a list of up to 64 pool names or CIDRs",
        ),
    ],
)
def test_what_is_wrong_has_its_code_and_names_itself(
    environment: dict[str, str], config: dict[str, object], code: int, words: str
) -> None:
    with pytest.raises(CniError) as caught:
        parsed(environment, **config)
    assert caught.value.code.value == code
    assert caught.value.message.startswith(words)


@pytest.mark.parametrize("stdin", [b"", b"{", b"\xff\xfe", b"[]", b'"x"', b" " * (spec.MOST_STDIN_BYTES + 1)])
def test_what_is_no_configuration_is_code_6(stdin: bytes) -> None:
    with pytest.raises(CniError) as caught:
        spec.parse(ENVIRONMENT, stdin)
    assert caught.value.code.value == 6
    assert spec.version_of(stdin) == spec.DEFAULT_VERSION


def test_a_del_needs_no_namespace() -> None:
    assert parsed({"CNI_COMMAND": "DEL", "CNI_NETNS": ""}).netns == ""


MADE = Attachment(
    "cali1",
    "eth0",
    "/run/netns/x",
    "02:00:00:00:00:01",
    1450,
    (IPv4Address("10.0.0.1"),),
)


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("0.2.0", {"ip4": {"ip": "10.0.0.1/32"}}),
        ("0.3.1", {"ips": [{"address": "10.0.0.1/32", "interface": 1, "version": "4"}]}),
        ("0.4.0", {"ips": [{"address": "10.0.0.1/32", "interface": 1, "version": "4"}]}),
        ("1.0.0", {"ips": [{"address": "10.0.0.1/32", "interface": 1}]}),
        ("1.1.0", {"ips": [{"address": "10.0.0.1/32", "interface": 1}]}),
    ],
)
def test_a_result_has_the_form_of_its_version(version: str, expected: dict[str, object]) -> None:
    rendered = json.loads(render(MADE, version))
    assert rendered["cniVersion"] == version
    assert {name: rendered[name] for name in expected} == expected
    if version != "0.2.0":
        pod = rendered["interfaces"][1]
        assert (pod["name"], pod["mac"], pod["sandbox"]) == ("eth0", "02:00:00:00:00:01", "/run/netns/x")
        assert ("mtu" in pod) == (version == "1.1.0")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("K8S_POD_NAMESPACE=default;K8S_POD_NAME=nginx", "calic440f455693"),
        ("K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=coredns-abc", "cali3d5d6ab04b5"),
        ("K8S_POD_NAMESPACE=ns1;K8S_POD_NAME=pod-1", "cali72c8b75e7ea"),
        ("", "cali0123456789a"),
    ],
)
def test_the_host_interface_has_the_name_calico_would_give_it(name: str, expected: str) -> None:
    assert host_interface(parsed({"CNI_ARGS": name})) == expected


def test_handle_and_endpoint_are_calicos() -> None:
    request = parsed()
    assert handle(request) == "k8s-pod-network.0123456789abcdef"
    assert stored_name(request, "node-1") == "node--1-k8s-nginx-eth0"
    made = endpoint(request, "node-1", "02:00:00:00:00:01", [IPv4Address("10.0.0.1")], "2026-01-01T00:00:00Z")
    assert (made.metadata.namespace, made.spec.pod, made.spec.ip_networks) == (
        "default",
        "nginx",
        ["10.0.0.1/32"],
    )


def test_a_mac_is_unicast_locally_administered_and_the_same_when_asked_again() -> None:
    one, other = mac_of(parsed()), mac_of(parsed({"CNI_CONTAINERID": "fedcba9876543210"}))
    assert one == mac_of(parsed())
    assert one != other
    assert int(one[:2], 16) & 3 == int(other[:2], 16) & 3 == 2
