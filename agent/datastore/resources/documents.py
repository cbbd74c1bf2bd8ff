"""What a person writes: YAML or JSON text becomes resources, or a list of sentences saying what is wrong and where.

Promises: one document after the other is checked and every error is named by file, document, line and field; nothing is
accepted in part. Unknown fields are refused (so nothing a file says is silently lost) with the nearest known name.
A document of another kind is one error like others, unless the caller wants such ones passed over, and named.
Does not know: etcd, and so neither overlap with stored pools nor what may be changed
(`agent.datastore.writing.resource_writer` does).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_interface
from typing import Any

import msgspec

from agent.datastore.resources import ip_pool
from agent.datastore.resources.calico_rules import refused_by_calico
from agent.datastore.resources.other_formats import (
    KUBERNETES,
    as_v3,
    is_old,
    is_other,
    kind_error,
    old_error,
    without_revision,
)
from agent.datastore.resources.resource_types import (
    API_VERSION,
    KINDS,
    IPPool,
    Resource,
    kind_of,
    without_empty_bgp,
)
from agent.datastore.resources.schema import Document, canonical_values, unknown_fields
from agent.datastore.resources.text_forms import network
from agent.datastore.resources.validation import validate
from agent.datastore.resources.yaml_lines import NotReadable, YamlDocument, parse_documents
from ipam.model import Pool
from ipam.stored_json import printable

MOST_DOCUMENT_BYTES = 8 << 20
"""A larger file is a mistake, not a configuration."""

LABEL_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_PART = "[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
LABEL_KEY = re.compile(rf"(?:(?=[^/]{{1,253}}/){_PART}(?:\.{_PART})*/)?(?!$){LABEL_VALUE.pattern}")
"""As Kubernetes and so Calico have them (IsQualifiedName)."""
AS_FIELD = re.compile(r"(?:asNumber|localASNumber|asPathPrefix\[\d+\]|prefix\[\d+\])$")
"""Where msgspec says that a type is wrong: the names of the fields that hold AS numbers."""


class InvalidDocument(Exception):
    """One or more sentences, each naming file, document, line and field."""

    def __init__(self, sentences: list[str]) -> None:
        super().__init__("\n".join(sentences))
        self.sentences = sentences


@dataclass(frozen=True, slots=True)
class SourcePosition:
    """Where a document stands."""

    source: str
    number: str = ""
    """`document 2, item 3, ` where there is more than one."""
    document: YamlDocument | None = None
    """None: the document was not read from a text."""
    base: str = ""
    """The path of this document inside what was read."""

    def locate(self, field: str) -> str:
        """`pool.yaml: document 2, line 7`."""
        if self.document is None:
            return self.source
        path = f"{self.base}.{field}" if self.base and field else self.base or field
        return f"{self.source}: {self.number}line {self.document.line(path)}"

    def error(self, named: str, sentence: str) -> str:
        """A sentence that begins with a field, with its position and the name of its resource before it."""
        return f"{self.locate(sentence.partition(': ')[0])}: {named}: {sentence}"


@dataclass(frozen=True, slots=True)
class ParsedResource:
    """A resource and the position where a person wrote it."""

    resource: Resource
    position: SourcePosition
    document: Document = field(default_factory=dict)
    """As it was written, in canonical form: with the defaults that were written out."""
    notes: tuple[str, ...] = ()
    """Sentences, field first, about what was taken otherwise than it was written."""

    @property
    def refusals(self) -> list[str]:
        """Sentences, field first, about what Calico's tools would refuse to write; what is stored may be so."""
        return refused_by_calico(self.resource)

    def error(self, sentence: str) -> str:
        """A sentence that begins with a field, with its position and its resource before it."""
        return self.position.error(f"{kind_of(self.resource)} {self.resource.metadata.name}", sentence)


def read(
    text: str, source: str, *, may_be_empty: bool = False, passed_over: list[str] | None = None
) -> list[ParsedResource]:
    """All resources of a YAML or JSON text; `…List` kinds and `List` are taken apart.

    With `passed_over` documents of other programs' kinds are no errors: each is named there. Raises InvalidDocument
    with every error found.
    """
    if len(text) > MOST_DOCUMENT_BYTES:
        raise InvalidDocument([f"{source}: larger than {MOST_DOCUMENT_BYTES} bytes; split it"])
    try:
        found = list(parse_documents(text))
    except NotReadable as error:
        raise InvalidDocument([f"{source}: {error}"]) from error
    if not found and not may_be_empty:
        raise InvalidDocument([f"{source}: holds no document"])
    resources: list[ParsedResource] = []
    sentences: list[str] = []
    for number, document in enumerate(found, 1):
        position = SourcePosition(source, f"document {number}, " if len(found) > 1 else "", document)
        sentences += [f"{position.locate(path)}: {path}: is given twice" for path in document.repeated]
        try:
            for item, raw in _items(position, document):
                if passed_over is not None and isinstance(raw, dict) and is_other(raw, KINDS):
                    passed_over.append(f"{item.locate('kind')}: {_named(raw)}: passed over")
                    continue
                try:
                    resources.append(parse_document(raw, item))
                except InvalidDocument as error:
                    sentences += error.sentences
        except InvalidDocument as error:
            sentences += error.sentences
    if sentences:
        raise InvalidDocument(sentences)
    return resources


def overlaps(found: Sequence[ParsedResource]) -> list[str]:
    """A sentence for each pool that shares addresses with one before it: no datastore would take both."""
    sentences: list[str] = []
    before: list[Pool] = []
    for item in found:
        if isinstance(item.resource, IPPool):
            pool = ip_pool.pool(item.resource)
            if (error := ip_pool.overlap_error(pool, before)) is not None:
                sentences.append(item.error(error))
            before.append(pool)
    return sentences


def _items(position: SourcePosition, document: YamlDocument) -> Iterator[tuple[SourcePosition, object]]:
    """A document itself, or what its list holds. Raises InvalidDocument."""
    raw = document.value
    kind = raw.get("kind") if isinstance(raw, dict) else None
    if not (isinstance(kind, str) and kind.endswith("List")):
        yield position, raw
        return
    items = raw.get("items")
    if not isinstance(items, list):
        raise InvalidDocument([f"{position.locate('items')}: items: a {raw['kind']} needs a list of items"])
    of_kubernetes = raw.get("apiVersion") == KUBERNETES
    for index, item in enumerate(items):
        number = f"{position.number}item {index + 1}, " if len(items) > 1 else position.number
        if (
            isinstance(item, dict) and kind != "List"
        ):  # an API server's list says once of what kind its items are
            item = {
                "kind": kind.removesuffix("List"),
                "apiVersion": raw.get("apiVersion", API_VERSION),
            } | item
        at = SourcePosition(position.source, number, document, f"items[{index}]")
        yield at, without_revision(item) if of_kubernetes else item


def _named(raw: Document) -> str:
    """`IPPool site-a`, or the kind alone."""
    name = raw["metadata"].get("name") if isinstance(raw.get("metadata"), dict) else None
    return printable(f"{raw.get('kind')} {name}" if isinstance(name, str) else str(raw.get("kind")))


def parse_document(raw: object, position: SourcePosition) -> ParsedResource:
    """A document as a resource. Raises InvalidDocument with every error that can be found at once."""
    if not isinstance(raw, dict):
        sentence = f"expected a resource with kind, metadata and spec, got {type(raw).__name__}"
        raise InvalidDocument([f"{position.locate('')}: {sentence}"])
    raw = as_v3(raw)
    kind, named = raw.get("kind"), _named(raw)

    def invalid(*sentences: str) -> InvalidDocument:
        return InvalidDocument([position.error(named, sentence) for sentence in sentences])

    if is_old(raw):
        raise invalid(old_error(raw))
    if not isinstance(kind, str) or kind not in KINDS:
        raise InvalidDocument([f"{position.locate('kind')}: {kind_error(raw, KINDS)}"])
    if raw.get("apiVersion", API_VERSION) != API_VERSION:
        raise invalid(f"apiVersion: expected {API_VERSION}, got {raw['apiVersion']!r}")
    raw = {  # a status is written by programs, and nothing is written as null for want of a spec
        name: value
        for name, value in raw.items()
        if name != "status" and not (name in ("spec", "metadata") and value is None)
    }
    if sentences := [*unknown_fields(raw, KINDS[kind]), *_label_errors(raw.get("metadata"))]:
        raise invalid(*sentences)
    document = canonical_values(raw, KINDS[kind])
    try:
        resource = without_empty_bgp(msgspec.convert(document, KINDS[kind]))
    except msgspec.ValidationError as error:
        raise invalid(_field_first(str(error))) from error
    if sentences := validate(resource):
        raise invalid(*sentences)
    return ParsedResource(resource, position, document, tuple(_masked(raw.get("spec"), "spec")))


def _masked(raw: object, at: str) -> Iterator[str]:
    """A sentence for each network that was written with host bits, and so means another than it says."""
    inside = raw.items() if isinstance(raw, dict) else enumerate(raw) if isinstance(raw, list) else ()
    for name, value in inside:
        path = f"{at}[{name}]" if isinstance(raw, list) else f"{at}.{name}"
        if not isinstance(value, str):
            yield from _masked(value, path)
        elif at.endswith("CIDRs"):
            try:
                has_host_bits = (
                    "/" in value and (one := ip_interface(value.strip())).ip != one.network.network_address
                )
            except ValueError:
                continue
            if has_host_bits:
                yield f"{path}: {value} has host bits set; it is taken as {network(value)}"


def _label_errors(metadata: Any) -> Iterator[str]:
    """YAML takes `1` and `true` for no texts; the person must hear which label it was."""
    for name in ("labels", "annotations"):
        entries = metadata.get(name) if isinstance(metadata, dict) else None
        for key, value in entries.items() if isinstance(entries, dict) else ():
            at = f"metadata.{name}.{key}"
            if not LABEL_KEY.fullmatch(key.lower() if name == "annotations" else key):
                yield f"{at}: a key is 1 to 63 letters, digits, '-', '_' and '.', after a DNS name and '/' if any"
            elif value is not None and not isinstance(value, str):
                yield f'{at}: must be a text; write it in quotes, such as "{value}"'
            elif name == "labels" and not LABEL_VALUE.fullmatch(value or ""):
                yield f"{at}: {value!r} must be up to 63 letters, digits, '-', '_' and '.'"


def _field_first(message: str) -> str:
    """msgspec says `Expected `int`, got `str` - at `$.spec.blockSize``; a person looks for the field first."""
    fault, at, path = message.rpartition(" - at ")
    if not at:
        return message[0].lower() + message[1:].replace("`", "")
    name = path.strip("`").removeprefix("$.")
    is_number = AS_FIELD.search(name) and re.search("got `(?:str|float)`", fault)
    hint = ', which is no AS number; write 64512, or asdot in quotes: "1.10"' if is_number else ""
    return f"{name}: {fault[0].lower()}{fault[1:].replace('`', '')}{hint}"
