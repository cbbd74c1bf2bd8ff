"""The one door for what an API server says: octets that anybody may have sent become metadata, or BadAnswer.

Of every object only its metadata is read, and addresses of a Node's status: nothing here follows anything else.
Promises: pure; no parser sees what is too large or too deep, whatever is wrong is BadAnswer with a printable sentence,
and a list of which one item cannot be read is not read at all: who is missing there may be there.
Does not know: HTTP, which object is asked for.
Reference: Kubernetes' API conventions; api-concepts, "Retrieving large results sets in chunks".
"""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec
from msgspec import Struct

from agent.kubernetes.api_errors import BadAnswer
from ipam.stored_json import is_too_deep, printable

MOST_OBJECT_BYTES = 4 << 20
"""etcd's bound of a request is 1.5 MiB, and JSON is longer than what is stored there."""
MOST_PAGE_BYTES = 32 << 20
LONGEST_NAME = 253
"""Of a DNS subdomain (RFC 1123), as objects are named."""
LONGEST_WHY = 300
NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")

_Value = TypeVar("_Value")


class ObjectMeta(Struct, frozen=True, rename="camel"):
    """What is read of an object's metadata."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class NodeAddress(Struct, frozen=True):
    """An address that the kubelet or a cloud says of a Node."""

    type: str = ""
    address: str = ""


class Status(Struct, frozen=True):
    """What is read of a Node's status."""

    addresses: list[NodeAddress] | None = None


class KubernetesObject(Struct, frozen=True):
    """An object, or the PartialObjectMetadata of one."""

    metadata: ObjectMeta
    status: Status | None = None


class ListMeta(Struct, frozen=True):
    """Where a list goes on."""

    next: str = msgspec.field(name="continue", default="")


class Page(Struct, frozen=True):
    """A list, or a part of it."""

    metadata: ListMeta = ListMeta()
    items: list[KubernetesObject] | None = None


def read_object(body: bytes) -> KubernetesObject:
    """An object. Raises BadAnswer."""
    found = _read(body, KubernetesObject, MOST_OBJECT_BYTES)
    _check(found.metadata)
    return found


def read_page(body: bytes) -> Page:
    """A page of a list. Raises BadAnswer."""
    found = _read(body, Page, MOST_PAGE_BYTES)
    if found.items is None:
        raise BadAnswer(
            "a list has no items"
        )  # an empty one has an empty list: what is none proves nobody absent
    for one in found.items:
        _check(one.metadata)
    return found


def read_refusal(status: int, body: bytes) -> str:
    """A sentence about a status of HTTP: the API server's message, if there is one that can be read."""
    message = ""
    try:
        raw = _read(body, dict, MOST_OBJECT_BYTES)
        message = str(raw.get("message", ""))
    except BadAnswer:
        message = body[:LONGEST_WHY].decode("utf-8", errors="replace")
    return printable(f"HTTP {status}: {message}" if message else f"HTTP {status}", LONGEST_WHY)


def _check(metadata: ObjectMeta) -> None:
    name = metadata.name
    if not NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise BadAnswer(printable(f"{name[:LONGEST_NAME]!r} is no object's name", LONGEST_WHY))


def _read(body: bytes, kind: type[_Value], most: int) -> _Value:
    if len(body) > most:
        raise BadAnswer(f"{len(body)} bytes are more than {most}")
    try:
        if is_too_deep(body):
            raise BadAnswer("objects and lists are nested too deep")
        return msgspec.json.decode(body, type=kind)
    except BadAnswer:
        raise
    except Exception as error:  # the octets are anybody's, and only here all is caught
        raise BadAnswer(printable(str(error), LONGEST_WHY)) from error
