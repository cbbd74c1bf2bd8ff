"""Where each kind is stored in etcd, and how a document becomes the stored bytes.

Promises: pure; a document is a resource as JSON's values. A value that cannot be used is Unreadable, and so is one
whose key says something else than it does, or is no key of its kind. What is written keeps every stored field that
this program does not know.
Does not know: transactions, whether a document may be written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

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
    encode,
    kind_of,
    with_revision,
)
from agent.datastore.resources.schema import (
    Document,
    canonical_values,
    null_object,
    with_unknown,
    with_written,
)
from agent.datastore.resources.validation import validate
from ipam.address_text import text_of
from ipam.codec import decode_affinity, decode_config, encode_config
from ipam.etcd.store import Versioned
from ipam.failures import Unreadable
from ipam.keys import HOSTS, IPAM_CONFIG, resource_key, resource_name, resource_prefix
from ipam.model import IpamConfig, PoolRecord
from ipam.stored_json import read_stored, stored_object

Read = TypeVar("Read", bound=Resource)
KIND_PREFIXES = {kind: resource_prefix(plural) for kind, plural in PLURALS.items()} | {
    "IPAMConfiguration": IPAM_CONFIG,
    "BlockAffinity": HOSTS,
}
"""The prefix of the keys of all resources of a kind."""


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


def read(kind: str, value: Versioned) -> StoredResource:
    """The resource of a key, for people: a rule that it breaks is theirs to see and to mend. Raises Unreadable."""

    def found(stored: Versioned) -> StoredResource:
        document = _document(kind, stored)
        resource = msgspec.convert(canonical_values(document, KINDS[kind]), KINDS[kind])
        if kind in PLURALS:
            _check_key(resource, stored.key)
        return StoredResource(with_revision(resource, stored.revision), document, stored)

    return read_stored(value, found)


def read_valid(kind: type[Read], value: Versioned) -> Read:
    """The resource of a key, for use: nothing is wrong with it by itself. Raises Unreadable."""

    def found(stored: Versioned) -> Read:
        document = stored_object(stored)
        if b"null" in stored.value and (at := null_object(document, kind)) is not None:
            raise ValueError(f"{at}: expected an object, got null")
        resource = with_revision(msgspec.convert(canonical_values(document, kind), kind), stored.revision)
        _check_key(resource, stored.key)
        if errors := validate(resource):
            raise ValueError(errors[0])
        return resource

    return read_stored(value, found)


def pool_record(value: Versioned) -> PoolRecord:
    """A stored IPPool as allocation has it. Raises Unreadable."""
    found = PoolRecord(pool(read_valid(IPPool, value)), value.key, value.revision)
    if b"deletionTimestamp" not in value.value and b'"status"' not in value.value:
        return found
    return replace(found, withdrawn=read_stored(value, _withdrawn))


def _withdrawn(value: Versioned) -> str:
    """Why Calico takes no new address from a pool, by what its controllers note in it; empty: it does."""
    document = stored_object(value)
    metadata, status = (_part(document, name, dict) for name in ("metadata", "status"))
    if (since := metadata.get("deletionTimestamp")) not in (None, ""):
        return f"is being deleted (deletionTimestamp {since})"
    for condition in _part(status, "conditions", list):
        if type(condition) is not dict:
            raise ValueError(f"status.conditions: expected objects, got {condition!r}")
        if condition.get("type") == "Allocatable" and condition.get("status") == "False":
            why = condition.get("reason") or condition.get("message") or "no reason given"
            return f"is not allocatable ({why})"
    return ""


def _part(document: Document, name: str, kind: Any) -> Any:
    found = document.get(name)
    if found is None:
        return kind()
    if type(found) is not kind:
        raise ValueError(f"{name}: expected {'an object' if kind is dict else 'a list'}, got {found!r}")
    return found


def _check_key(resource: Resource, key: str) -> None:
    """Raises ValueError for a key that is not the resource's own: two keys never say something of one object."""
    kind, metadata = kind_of(resource), resource.metadata
    named = resource_name(key, PLURALS[kind])
    if named is None or (named[0] is not None) != (kind in NAMESPACED):
        raise ValueError(f"is not the key of a {kind}")
    if metadata.name != named[1]:
        raise ValueError(f"metadata.name: {metadata.name!r} is not the name of this key")
    if kind in NAMESPACED and (metadata.namespace or "default") != named[0]:
        raise ValueError(f"metadata.namespace: {metadata.namespace!r} is not the namespace of this key")


def _document(kind: str, value: Versioned) -> Document:
    if kind == "IPAMConfiguration":
        if value.key != IPAM_CONFIG:
            raise ValueError(f"is not the key of an {kind}")
        return _made(kind, "default", configuration_document(decode_config(value)))
    if kind == "BlockAffinity":
        found = decode_affinity(value)
        spec = {"state": found.state.value, "node": found.node, "cidr": text_of(found.block)}
        return _made(kind, affinity_name(found), spec)
    return stored_object(value)


def _made(kind: str, name: str, spec: dict[str, Any]) -> Document:
    return {"kind": kind, "apiVersion": API_VERSION, "metadata": {"name": name}, "spec": spec}


def to_document(resource: Resource) -> Document:
    """A resource as a document for people and files: the fields that this program knows."""
    document: Document = msgspec.to_builtins(resource)
    return document


def stored_bytes(
    resource: Resource, stored: Versioned | None, written: Mapping[str, Any] | None = None
) -> bytes:
    """The bytes to put in place of the stored ones; of those that cannot be read nothing is kept.

    `written`: the document, in canonical form, in which a person may have written out defaults; these are stored too.
    """
    if isinstance(resource, IPAMConfiguration):
        rules = IpamConfig()
        if stored is not None:
            with suppress(Unreadable):
                rules = decode_config(stored)
        return encode_config(rules_of(resource.spec, rules))
    try:
        before = read_stored(stored, stored_object) if stored is not None else None
    except Unreadable:
        before = None
    if before is None and written is None:
        return encode(resource)
    kind, new = type(resource), json.loads(encode(resource))
    if before is not None:
        new = with_unknown(new, before, kind)
    new["spec"] = with_written({"spec": new["spec"]}, {"spec": (written or {}).get("spec", {})}, kind)["spec"]
    return json.dumps(new, separators=(",", ":"), ensure_ascii=False).encode()
