"""What a person writes: YAML or JSON text becomes resources, or a list of sentences saying what is wrong and where.

Promises: one document after the other is checked and every fault is named by file, document and field; nothing is
accepted in part. Unknown fields are refused (so nothing a file says is silently lost) with the nearest known name.
Does not know: etcd, and so neither overlap with stored pools nor what may be changed: `agent.datastore.admission` does.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec
import yaml

from agent.datastore import pools
from agent.datastore.bgp_faults import bgp_faults
from agent.datastore.resources import API_VERSION, KINDS, IPPool, Node, Resource

MOST_DOCUMENT_BYTES = 8 << 20
"""A larger file is a mistake, not a configuration."""


class InvalidDocument(Exception):
    """One or more sentences, each naming file, document and field."""

    def __init__(self, sentences: list[str]) -> None:
        super().__init__("\n".join(sentences))
        self.sentences = sentences


@dataclass(frozen=True, slots=True)
class Found:
    """A resource and where it was written."""

    resource: Resource
    where: str


def read(text: str, source: str) -> list[Found]:
    """All resources of a YAML or JSON text; `…List` kinds and `List` are taken apart.

    Raises InvalidDocument with every fault found.
    """
    if len(text) > MOST_DOCUMENT_BYTES:
        raise InvalidDocument([f"{source}: larger than {MOST_DOCUMENT_BYTES} bytes; split it"])
    try:
        documents = [document for document in yaml.load_all(text, yaml.CSafeLoader) if document is not None]
    except yaml.YAMLError as error:
        raise InvalidDocument([f"{source}: {_yaml_fault(error)}"]) from error
    if not documents:
        raise InvalidDocument([f"{source}: holds no document"])
    found: list[Found] = []
    faults: list[str] = []
    for where, raw in _items(documents, source):
        try:
            found.append(Found(_resource(raw, where), where))
        except InvalidDocument as error:
            faults += error.sentences
    if faults:
        raise InvalidDocument(faults)
    return found


def _yaml_fault(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
    return f"{place}not YAML or JSON: {problem}"


def _items(documents: list[object], source: str) -> Iterator[tuple[str, object]]:
    for number, document in enumerate(documents, 1):
        where = source if len(documents) == 1 else f"{source}: document {number}"
        if isinstance(document, dict) and str(document.get("kind", "")).endswith("List"):
            items = document.get("items")
            if not isinstance(items, list):
                yield where, f"items: a {document['kind']} needs a list of items"
                continue
            for index, item in enumerate(items, 1):
                yield (where if len(items) == 1 else f"{where}: item {index}"), item
        else:
            yield where, document


def _resource(raw: object, where: str) -> Resource:
    if isinstance(raw, str) and raw.startswith("items: "):
        raise InvalidDocument([f"{where}: {raw}"])
    if not isinstance(raw, dict):
        raise InvalidDocument(
            [f"{where}: expected a resource with kind, metadata and spec, got {type(raw).__name__}"]
        )
    kind = raw.get("kind")
    if kind not in KINDS:
        known = ", ".join(KINDS)
        raise InvalidDocument(
            [f"{where}: kind: {kind!r} is not a kind this program knows ({known}){_nearest(kind, KINDS)}"]
        )
    if raw.get("apiVersion", API_VERSION) != API_VERSION:
        raise InvalidDocument([f"{where}: apiVersion: expected {API_VERSION}, got {raw['apiVersion']!r}"])
    name = raw["metadata"].get("name") if isinstance(raw.get("metadata"), dict) else None
    where = f"{where}: {kind} {name}" if isinstance(name, str) else f"{where}: {kind}"
    if unknown := list(_unknown_fields(raw, KINDS[kind], "")):
        raise InvalidDocument([f"{where}: {sentence}" for sentence in unknown])
    try:
        resource = msgspec.convert(_plain(raw), KINDS[kind])
    except msgspec.ValidationError as error:
        raise InvalidDocument([f"{where}: {_field_first(str(error))}"]) from error
    if faults := _faults(resource):
        raise InvalidDocument([f"{where}: {sentence}" for sentence in faults])
    return resource


def _plain(value: Any) -> Any:
    """YAML turns an unquoted time stamp into a datetime; a resource keeps it as text."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if hasattr(value, "isoformat"):
        return value.isoformat().replace("+00:00", "Z")
    return value


def _field_first(message: str) -> str:
    """msgspec says `Expected `int`, got `str` - at `$.spec.blockSize``; a person looks for the field first."""
    fault, at, path = message.rpartition(" - at ")
    return (
        f"{path.strip('`').removeprefix('$.')}: {fault[0].lower()}{fault[1:].replace('`', '')}"
        if at
        else message
    )


def _unknown_fields(raw: object, kind: Any, path: str) -> Iterator[str]:
    struct = _struct_of(kind)
    if struct is None or not isinstance(raw, dict):
        for candidate in _candidates(kind):
            if get_origin(candidate) is list and isinstance(raw, list):
                for index, item in enumerate(raw):
                    yield from _unknown_fields(item, get_args(candidate)[0], f"{path}[{index}]")
        return
    hints = get_type_hints(struct)
    types: dict[str, Any] = {field.encode_name: hints[field.name] for field in msgspec.structs.fields(struct)}
    if not path:
        types["kind"] = str
    for name, value in raw.items():
        at = f"{path}.{name}" if path else str(name)
        if name not in types:
            if (
                path != "metadata"
            ):  # other tools keep their own notes there (managedFields, selfLink, generation)
                yield f"{at}: unknown field{_nearest(name, types)}"
        else:
            yield from _unknown_fields(value, types[name], at)


def _candidates(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _struct_of(kind: Any) -> type[msgspec.Struct] | None:
    for candidate in _candidates(kind):
        if isinstance(candidate, type) and issubclass(candidate, msgspec.Struct):
            return candidate
    return None


def _nearest(name: object, known: Mapping[str, Any]) -> str:
    """A hint at the name that was probably meant."""
    by_lower = {word.lower(): word for word in known}
    close = difflib.get_close_matches(str(name).lower(), by_lower, n=1)
    return f"; did you mean {by_lower[close[0]]}?" if close else ""


def _faults(resource: Resource) -> list[str]:
    faults = [] if resource.metadata.name else ["metadata.name: must not be empty"]
    faults += bgp_faults(resource)
    if isinstance(resource, IPPool):
        faults += pools.faults(resource.spec)
    if (
        isinstance(resource, Node)
        and resource.spec.bgp
        and resource.spec.bgp.ipv4_address
        and resource.ipv4 is None
    ):
        faults.append(
            f"spec.bgp.ipv4Address: {resource.spec.bgp.ipv4_address!r} is not an IPv4 address with a length"
        )
    return faults
