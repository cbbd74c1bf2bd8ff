"""Where each kind is stored in etcd, and how a document becomes the stored bytes.

Promises: pure; a document is a resource as JSON's values. A key below a kind's prefix that is none of its own reads as
None. What is written keeps every stored field that this program does not know.
Does not know: transactions, whether a document may be written.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import msgspec

from agent.datastore.resources.ip_pool import pool
from agent.datastore.resources.ipam_types import affinity_name, configuration_document, rules_of
from agent.datastore.resources.resource_types import (
    API_VERSION,
    KINDS,
    NAMESPACED,
    PLURALS,
    IPAMConfiguration,
    IPPool,
    Resource,
    decode,
    encode,
    kind_of,
    with_revision,
)
from agent.datastore.resources.schema import Document, with_unknown
from ipam.address_text import text_of
from ipam.codec import decode_affinity, decode_config, encode_config
from ipam.etcd.store import Versioned
from ipam.failures import Malformed
from ipam.keys import HOSTS, IPAM_CONFIG, affinity_of_key, resource_key, resource_name, resource_prefix
from ipam.model import IpamConfig, PoolRecord

KIND_PREFIXES = {kind: resource_prefix(plural) for kind, plural in PLURALS.items()} | {
    "IPAMConfiguration": IPAM_CONFIG,
    "BlockAffinity": HOSTS,
}
"""The prefix of the keys of all resources of a kind."""


class Damaged(Exception):
    """A stored value cannot be read; the sentence names kind, key and field."""


@dataclass(frozen=True, slots=True)
class StoredResource:
    """A stored resource: as this program knows it, and whole."""

    resource: Resource
    document: Document
    value: Versioned


def key_of(resource: Resource) -> str:
    """The key of a resource that a person may write."""
    return key_by_name(kind_of(resource), resource.metadata.name, resource.metadata.namespace)


def key_by_name(kind: str, name: str, namespace: str | None = None) -> str:
    """The key of a resource by its kind and name."""
    if kind == "IPAMConfiguration":
        return IPAM_CONFIG
    return resource_key(PLURALS[kind], name, (namespace or "default") if kind in NAMESPACED else None)


def read(kind: str, value: Versioned) -> StoredResource | None:
    """The resource of a key; None for a key that is none of its kind's. Raises Damaged."""
    try:
        document = _document(kind, value)
        if document is None:
            return None
        resource = msgspec.convert(document, KINDS[kind])
    except (ValueError, msgspec.MsgspecError, Malformed) as error:
        raise Damaged(f"{kind} at {value.key} cannot be read: {error}") from error
    return StoredResource(with_revision(resource, value.revision), document, value)


def pool_record(value: Versioned) -> PoolRecord:
    """A stored IPPool as allocation has it. Raises ValueError or msgspec.MsgspecError naming the field."""
    return PoolRecord(pool(decode(IPPool, value.value, value.revision)), value.key, value.revision)


def _document(kind: str, value: Versioned) -> Document | None:
    if kind == "IPAMConfiguration":
        if value.key != IPAM_CONFIG:
            return None
        return _made(kind, "default", configuration_document(decode_config(value.key, value.value)))
    if kind == "BlockAffinity":
        if affinity_of_key(value.key) is None:
            return None
        found = decode_affinity(value.key, value.value)
        spec = {"state": found.state.value, "node": found.node, "cidr": text_of(found.block)}
        return _made(kind, affinity_name(found), spec)
    if resource_name(value.key, PLURALS[kind]) is None:
        return None
    document = json.loads(value.value)
    if not isinstance(document, dict):
        raise Malformed(f"expected an object, got {type(document).__name__}")
    return document


def _made(kind: str, name: str, spec: dict[str, Any]) -> Document:
    return {"kind": kind, "apiVersion": API_VERSION, "metadata": {"name": name}, "spec": spec}


def to_document(resource: Resource) -> Document:
    """A resource as a document for people and files: the fields that this program knows."""
    document: Document = msgspec.to_builtins(resource)
    return document


def stored_bytes(resource: Resource, stored: Versioned | None) -> bytes:
    """The bytes to put in place of the stored ones. Raises Malformed when a stored IPAMConfiguration is damaged."""
    if isinstance(resource, IPAMConfiguration):
        rules = decode_config(IPAM_CONFIG, stored.value) if stored is not None else IpamConfig()
        return encode_config(rules_of(resource.spec, rules))
    try:
        before = json.loads(stored.value) if stored is not None else None
    except ValueError:
        before = None
    if not isinstance(before, dict):
        return encode(resource)
    new = json.loads(encode(resource))
    return json.dumps(
        with_unknown(new, before, type(resource)), separators=(",", ":"), ensure_ascii=False
    ).encode()
