"""The stored bytes of this node's own resource as a document to be changed; what cannot be read is mended.

Promises: a record that cannot be read is kept aside before it is written over. In its place comes what this agent
last read or wrote; if it never did, what of the record itself can be used, field by field; if nothing can, a new one.
Whoever writes it guards the revision that was read, so a record that somebody mended meanwhile stays.
Does not know: which fields are to be changed, etcd.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import structlog

from agent.datastore.resources.resource_types import API_VERSION, Node
from agent.datastore.set_aside import SetAside
from agent.datastore.storage_layout import read_valid
from ipam.etcd.store import Versioned
from ipam.failures import Malformed, Unreadable
from ipam.model import NodeName
from ipam.stored_json import read_stored, stored_object

MOST_FIELDS_DROPPED = 32
"""Of a record that is mended field by field."""
_FIELD = re.compile(r" - at `\$\.([A-Za-z0-9.]+)|^([A-Za-z0-9.]+): ")
"""The path in a sentence about a field: msgspec's at its end, ours at its beginning."""

log = structlog.get_logger()


def parsed(current: Versioned) -> dict[str, Any]:
    """A record as it is stored. Raises Unreadable."""
    read_valid(Node, current)
    return read_stored(current, stored_object)


class OwnRecord:
    """Remembers the last good record."""

    def __init__(self, node: NodeName, set_aside: SetAside, fresh: Callable[[], dict[str, Any]]) -> None:
        """`fresh` makes a new record."""
        self._node = node
        self._set_aside = set_aside
        self._fresh = fresh
        self._last_good: bytes | None = None

    def document(self, current: Versioned | None, *, lost: bool = False) -> tuple[dict[str, Any], bool]:
        """The record to change, and whether it is what is stored. Raises Malformed when the disk takes nothing.

        `lost`: that there is none is an older datastore's doing, and it is written back as it was.
        """
        if current is None and lost and self._last_good is not None:
            log.warning("node.put_back", node=self._node)
            return json.loads(self._last_good), False
        if current is None:
            return self._fresh(), False
        try:
            raw = parsed(current)
        except Unreadable as error:
            return self._mended(current, error), False
        self._last_good = current.value
        return raw, True

    def wrote(self, value: bytes) -> None:
        """This was written."""
        self._last_good = value

    def _mended(self, current: Versioned, error: Unreadable) -> dict[str, Any]:
        try:
            file = self._set_aside.keep(current)
        except OSError as failure:
            raise Malformed(f"{error}; it is not written over, for it cannot be kept: {failure}") from error
        found, origin = self._instead(current)
        log.warning(
            "node.record_unreadable",
            key=error.key,
            revision=error.revision,
            why=error.why,
            kept=str(file),
            then=origin,
        )
        return found

    def _instead(self, current: Versioned) -> tuple[dict[str, Any], str]:
        if self._last_good is not None:
            return json.loads(self._last_good), "the record that was last read is written again"
        if (usable := self._usable_part(current)) is not None:
            return usable, "what of it can be used is written anew"
        return self._fresh(), "a new one is written"

    def _usable_part(self, current: Versioned) -> dict[str, Any] | None:
        try:
            raw = read_stored(current, stored_object)
        except Unreadable:
            return None
        metadata = raw.get("metadata")
        named = {
            **(metadata if isinstance(metadata, dict) else self._fresh()["metadata"]),
            "name": self._node,
        }
        raw |= {"kind": "Node", "apiVersion": API_VERSION, "metadata": named}
        raw.setdefault("spec", {})
        for _ in range(MOST_FIELDS_DROPPED):
            try:
                return parsed(Versioned(current.key, json.dumps(raw).encode(), current.revision))
            except Unreadable as error:
                field = _FIELD.search(error.why)
                if field is None or not _drop(raw, (field[1] or field[2]).split(".")):
                    return None
        return None


def _drop(raw: dict[str, Any], path: list[str]) -> bool:
    """Take a field away; whether there was one. Of the record's own frame only what is inside can go."""
    for name in path[:-1]:
        inside = raw.get(name)
        if not isinstance(inside, dict):
            return False
        raw = inside
    if path[-1] not in raw:
        return False
    del raw[path[-1]]
    if path == ["spec"]:
        raw["spec"] = {}
    return True
