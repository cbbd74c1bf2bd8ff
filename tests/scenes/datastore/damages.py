"""Every kind of stored value, and everything that may be wrong with one, made mechanically from good values.

A damage is certain if no reader may take the value; others may turn out to be readable, and must hurt nobody.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any

from ipam import block as blocks
from ipam.codec import encode_affinity, encode_block, encode_config, encode_handle
from ipam.keys import IPAM_CONFIG, TUNNEL_HANDLES, affinity_key, block_key, handle_key, resource_key
from ipam.model import AffinityState, Attributes, Handle, HandleId, IpamConfig, NodeName
from ipam.stored_json import MOST_DEPTH

ME = NodeName("node-1")
AN_OWN_BLOCK = IPv4Network("10.9.0.0/26")


@dataclass(frozen=True)
class Good:
    """A value as it should be."""

    kind: str
    key: str
    value: bytes


@dataclass(frozen=True)
class Damage:
    """What was done to a value, and what came of it."""

    name: str
    value: bytes
    is_certain: bool


def document(kind: str, name: str, spec: object, namespace: str | None = None) -> bytes:
    """A stored resource."""
    metadata = {
        "name": name,
        "uid": "u",
        "labels": {"rack": "r1"},
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
    if namespace is not None:
        metadata["namespace"] = namespace
    return json.dumps(
        {"kind": kind, "apiVersion": "projectcalico.org/v3", "metadata": metadata, "spec": spec}
    ).encode()


def _resource(kind: str, plural: str, name: str, spec: object, namespace: str | None = None) -> Good:
    return Good(kind, resource_key(plural, name, namespace), document(kind, name, spec, namespace))


_NODE = {
    "bgp": {
        "ipv4Address": "172.26.0.2/20",
        "ipv6Address": "fd00:26::2/64",
        "asNumber": 64513,
        "ipv4IPIPTunnelAddr": "10.9.0.3",
        "routeReflectorClusterID": "1.0.0.1",
    },
    "ipv4VXLANTunnelAddr": "10.9.0.2",
    "vxlanTunnelMACAddr": "66:01:02:03:04:05",
    "ipv6VXLANTunnelAddr": "fd00:10::2",
    "vxlanTunnelMACAddrV6": "66:01:02:03:04:06",
    "addresses": [{"address": "172.26.0.2", "type": "InternalIP"}],
    "orchRefs": [{"orchestrator": "k8s", "nodeName": "n"}],
    "wireguard": {"interfaceIPv4Address": "10.9.0.5"},
}
_RULE = {
    "action": "Accept",
    "cidr": "10.0.0.0/8",
    "matchOperator": "In",
    "prefixLength": {"min": 24, "max": 32},
    "source": "RemotePeers",
    "interface": "eth*",
    "peerType": "eBGP",
    "communities": {"values": ["65000:1"]},
    "asPathPrefix": [65001],
    "priority": 100,
    "operations": [
        {"addCommunity": {"value": "65000:2"}},
        {"prependASPath": {"prefix": [65000]}},
        {"setPriority": {"value": 7}},
    ],
}
_ENDPOINT = {
    "node": ME,
    "orchestrator": "k8s",
    "pod": "web",
    "containerID": "0123",
    "endpoint": "eth0",
    "interfaceName": "cali1",
    "ipNetworks": ["10.9.0.1/32", "fd00:10::1/128"],
    "mac": "ee:01:02:03:04:05",
    "profiles": ["p"],
}
RESOURCES = (
    _resource(
        "IPPool",
        "ippools",
        "pool",
        {
            "cidr": "10.9.0.0/16",
            "blockSize": 26,
            "vxlanMode": "CrossSubnet",
            "ipipMode": "Never",
            "natOutgoing": True,
            "nodeSelector": 'rack == "r1"',
            "allowedUses": ["Workload", "Tunnel"],
            "assignmentMode": "Automatic",
            "disabled": False,
            "disableBGPExport": False,
        },
    ),
    _resource("Node", "nodes", "node-2", _NODE),
    _resource(
        "BGPConfiguration",
        "bgpconfigurations",
        "default",
        {
            "nodeToNodeMeshEnabled": True,
            "asNumber": 65000,
            "listenPort": 1790,
            "bindMode": "NodeIP",
            "logSeverityScreen": "Info",
            "communities": [{"name": "c", "value": "65000:1"}],
            "prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["c"]}],
            "nodeMeshPassword": {"secretKeyRef": {"name": "a", "key": "b"}},
            "nodeMeshMaxRestartTime": "120s",
            "serviceClusterIPs": [{"cidr": "10.96.0.0/12"}],
        },
    ),
    _resource(
        "BGPPeer",
        "bgppeers",
        "tor",
        {
            "nodeSelector": 'rack == "r1"',
            "peerIP": "10.0.0.9:1790",
            "asNumber": 65001,
            "localASNumber": 65002,
            "nextHopMode": "Auto",
            "password": {"secretKeyRef": {"name": "a", "key": "b", "optional": True}},
            "sourceAddress": "UseNodeIP",
            "maxRestartTime": "90s",
            "keepaliveTime": "10s",
            "numAllowedLocalASNumbers": 1,
            "ttlSecurity": 1,
            "reachableBy": "10.0.0.1",
            "filters": ["f"],
            "reversePeering": "Auto",
        },
    ),
    _resource("BGPFilter", "bgpfilters", "f", {"exportV4": [_RULE]}),
    _resource(
        "BFDConfiguration",
        "bfdconfigurations",
        "default",
        {
            "nodeSelector": 'rack == "r1"',
            "interfaces": [
                {
                    "matchPattern": "eth*",
                    "minimumRecvInterval": "50ms",
                    "minimumSendInterval": "200ms",
                    "idleSendInterval": "20s",
                    "multiplier": 4,
                }
            ],
        },
    ),
    _resource(
        "WorkloadEndpoint", "workloadendpoints", f"{ME.replace('-', '--')}-k8s-web-eth0", _ENDPOINT, "default"
    ),
)
CLUSTER_INFORMATION = _resource(
    "ClusterInformation",
    "clusterinformations",
    "default",
    {"clusterGUID": "ab", "clusterType": "tortie", "calicoVersion": "v3.32.1", "datastoreReady": True},
)
RESERVATION = _resource("IPReservation", "ipreservations", "kept", {"reservedCIDRs": ["10.9.1.0/24"]})


def _ipam() -> tuple[Good, ...]:
    cidr = AN_OWN_BLOCK
    words = (("namespace", "default"), ("node", ME), ("pod", "web"))
    block, _ = blocks.assign(
        blocks.new_block(cidr, ME, "2026-01-01T00:00:00Z", 5), 2, Attributes(HandleId("h"), words)
    )
    block, _ = blocks.assign(block, 1, Attributes(HandleId("borrowed"), (("node", "node-2"),)))
    return (
        Good("Block", block_key(cidr), encode_block(block)),
        Good("Handle", handle_key(HandleId("h")), encode_handle(Handle(HandleId("h"), ((cidr, 2),)))),
        Good("IPAMConfig", IPAM_CONFIG, encode_config(IpamConfig(True, True, 7, 30))),
        RESERVATION,
    )


AFFINITY = Good("BlockAffinity", affinity_key(ME, AN_OWN_BLOCK), encode_affinity(AffinityState.CONFIRMED))
IPAM = _ipam()
TUNNEL = HandleId(f"{TUNNEL_HANDLES[0]}{ME}")
TUNNEL_HANDLE = Good("IPAMHandle", handle_key(TUNNEL), encode_handle(Handle(TUNNEL, ((AN_OWN_BLOCK, 1),))))
WATCHED = (*RESOURCES, CLUSTER_INFORMATION, TUNNEL_HANDLE, AFFINITY, IPAM[0])
"""Everything that the state cache reads."""

DEEP = b"[" * 5000 + b"]" * 5000
_NESTED = b"[" * (MOST_DEPTH + 1) + b"]" * (MOST_DEPTH + 1)


def _with_field(good: bytes, raw: bytes) -> bytes:
    """One more field that nobody knows."""
    return good.rstrip()[:-1] + b',"added":' + raw + b"}"


BYTES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda good: b"",
    "a blank": lambda good: b" ",
    "null": lambda good: b"null",
    "a list": lambda good: b"[]",
    "a text": lambda good: b'"text"',
    "a number": lambda good: b"0",
    "true": lambda good: b"true",
    "half": lambda good: good[: len(good) // 2],
    "all but the last byte": lambda good: good.rstrip()[:-1],
    "twice": lambda good: good + good,
    "something behind it": lambda good: good + b"x",
    "in a list": lambda good: b"[" + good + b"]",
    "a byte order mark": lambda good: b"\xef\xbb\xbf" + good,
    "UTF-16": lambda good: good.decode().encode("utf-16"),
    "UTF-32": lambda good: good.decode().encode("utf-32"),
    "gzip": lambda good: gzip.compress(good, mtime=0),
    "a byte that is no UTF-8": lambda good: _with_field(good, b'"\xff"'),
    "NUL": lambda good: b"\0" + good,
    "NUL in a text": lambda good: _with_field(good, b'"\0"'),
    "half a surrogate": lambda good: _with_field(good, b'"\\ud800"'),
    "NaN": lambda good: _with_field(good, b"NaN"),
    "Infinity": lambda good: _with_field(good, b"Infinity"),
    "a number beyond floats": lambda good: _with_field(good, b"1e999"),
    "5,000 digits": lambda good: _with_field(good, b"9" * 5000),
    "5,000 lists": lambda good: DEEP,
    "5,000 open lists": lambda good: b"[" * 5000,
    "5,000 open objects": lambda good: b'{"a":' * 5000,
    "5,000 lists in a field": lambda good: _with_field(good, DEEP),
    "one level too deep in a field": lambda good: _with_field(good, _NESTED),
    "YAML": lambda good: b"kind: Node\nmetadata: {}\n",
    "single quotes": lambda good: good.replace(b'"', b"'"),
    "HTML": lambda good: b"<html></html>",
    "1.4 MB of nothing": lambda good: b"x" * 1_400_000,
    "1.4 MB of blanks": lambda good: b" " * 1_400_000,
}
"""Damages of the bytes, whatever they say."""

WRONG: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -5,
        7,
        10**18,
        1 << 70,
        1.5,
        "",
        "zz",
        "0",
        "\0",
        "a/b",
        "..",
        "x" * 5000,
        "\u202e",
    ),
    *(
        [],
        {},
        [None],
        [[]],
        [1],
        ["zz"],
        {"x": None},
        {"": 1},
        {"x": {"y": []}},
        "0.0.0.0/0",
        "::/0",
        "::1%x/64",
    ),
    *("10.0.0.0/33", "255.255.255.255/32", "ff02::1/128", "00:00:00:00:00:00", "01:00:5e:00:00:01"),
)
"""Put in place of every field in turn."""
UNTYPED = ("deleted",)
"""Fields that nobody reads."""
JUNK = "\x07~ no such thing"
"""A text that is no name, address, selector or word of anything."""
ANY_TEXT = frozenset(
    {
        *("clusterGUID", "clusterType", "calicoVersion"),
        *("apiVersion", "uid", "creationTimestamp", "labels", "annotations", "labelsToApply"),
        *("orchestrator", "nodeName", "type", "pod", "containerID", "endpoint", "profiles", "workload"),
        *("filters", "logSeverityScreen", "handle_id", "secondary", "wireguard"),
        *(
            "nets",
            "floatingIPs",
            "natPortRange",
            "externalNodesList",
            "defaultEndpointToHostAction",
            "defaultAction",
        ),
    }
)
"""Fields, and objects of fields, that may hold any text: names that somebody gave, and what is only shown."""


ANY_COMMUNITY = (
    ("spec", "communities", 0, "name"),
    ("spec", "prefixAdvertisements", 0, "communities", 0),
)
"""A node's own object uses names that another one defines."""


def damages(good: Good) -> Iterator[Damage]:
    """Everything that may be wrong with a value."""
    yield from byte_damages(good)
    yield from field_damages(good)


def byte_damages(good: Good) -> Iterator[Damage]:
    """Damages of the bytes: no reader may take any."""
    for name, damage in BYTES.items():
        if not (name == "empty" and good.kind == "BlockAffinity"):  # an old claim
            yield Damage(name, damage(good.value), is_certain=True)


def field_damages(good: Good) -> Iterator[Damage]:
    """Each field in turn with each wrong value, and without it; certain where its type is not what it was."""
    whole = json.loads(good.value)
    for path in _paths(whole):
        was = _at(whole, path)
        shown = ".".join(map(str, path))
        for value in WRONG:
            is_certain = path[-1] not in UNTYPED and _is_other_type(was, value)
            yield Damage(f"{shown} is {repr(value)[:40]}", _changed(whole, path, value), is_certain)
        if isinstance(was, str):
            is_free = not ANY_TEXT.isdisjoint(path) or path in ANY_COMMUNITY
            yield Damage(f"{shown} is junk", _changed(whole, path, JUNK), is_certain=not is_free)
        yield Damage(f"{shown} is gone", _changed(whole, path, _GONE), is_certain=False)


_GONE = object()


def _is_other_type(was: object, value: object) -> bool:
    """Whether no reader may take one for the other: null may be taken for nothing, and 1 for 1.0."""
    return None not in (was, value) and _type(was) is not _type(value)


def _type(value: object) -> type:
    return float if type(value) in (int, float) else type(value)


def _paths(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inside = (
        value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    )
    for name, one in inside:
        yield (*above, name)
        yield from _paths(one, (*above, name))


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for name in path:
        value = value[name]
    return value


def _changed(whole: Any, path: tuple[Any, ...], value: object) -> bytes:
    copied = json.loads(json.dumps(whole))
    above = _at(copied, path[:-1])
    if value is _GONE:
        del above[path[-1]]
    else:
        above[path[-1]] = value
    return json.dumps(copied).encode()


def odd_keys(prefix: str) -> tuple[str, ...]:
    """Keys below a prefix that are none of its kind's."""
    long = "x" * 300
    parts: tuple[str, ...] = (
        "",
        "/",
        "a/b/c",
        "//x",
        "a//b",
        "%2F",
        "a%2F",
        "a%",
        "a b",
        "-",
        "\u00fc",
        "\u202ex",
        long,
    )
    parts += ("\x00", "\udcff", "a\udcfe/b")
    return tuple(f"{prefix}{part}" for part in parts)
