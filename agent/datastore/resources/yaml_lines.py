"""YAML or JSON text becomes plain values, each with the line it was written in.

Promises: one document after the other; a key given twice is reported, not silently chosen; time stamps stay text;
what aliases unfold to is bounded. JSON is read as the part of YAML that it is, so its lines are known too.
Does not know: what the values mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import yaml

MOST_VALUES = 1 << 20
"""Values in one text: a few aliases of aliases could otherwise fill any memory."""
MOST_LEVELS = 100


class NotReadable(Exception):
    """Neither YAML nor JSON; the sentence begins with line and column where they are known."""


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """One document with the lines of its fields."""

    value: Any
    lines: Mapping[str, int]
    """Path of a field, such as `spec.exportV4[0].action` -> its line, from 1; the document itself is under ``."""
    repeated: tuple[str, ...] = ()
    """Fields that were given twice."""

    def line(self, path: str) -> int:
        """The line of a field, or of the nearest one around it: a field that is missing has no line of its own."""
        while path not in self.lines:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.lines[path]


def parse_documents(text: str) -> Iterator[YamlDocument]:
    """All documents that hold anything. Raises NotReadable."""
    if text.lstrip().startswith(("{", "[")):
        # JSON may be indented by tabs, which YAML forbids; inside JSON's texts there are none (RFC 8259 section 7).
        text = text.replace("\t", " ")
    _check_levels(text)
    loader = yaml.CSafeLoader(text)
    reader = _YamlReader(loader)
    try:
        while loader.check_node():
            root = loader.get_node()
            assert root is not None  # as check_node said
            found = reader.document(root)
            if found.value is not None:
                yield found
    except yaml.YAMLError as error:
        raise NotReadable(_sentence(error)) from error
    finally:
        loader.dispose()


def _check_levels(text: str) -> None:
    """Raise NotReadable before nodes are made: libyaml's composer calls itself at each level, and dies of thousands."""
    level = 0
    try:
        for event in yaml.parse(text, yaml.CSafeLoader):
            level += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if level > MOST_LEVELS:
                raise NotReadable(f"{_position(event.start_mark)}: nested in more than {MOST_LEVELS} levels")
    except yaml.YAMLError as error:
        raise NotReadable(_sentence(error)) from error


@dataclass(slots=True)
class _YamlReader:
    """Turns the nodes of one text into values."""

    loader: yaml.CSafeLoader
    count: int = 0
    lines: dict[str, int] = field(default_factory=dict)
    repeated: list[str] = field(default_factory=list)

    def document(self, root: yaml.Node) -> YamlDocument:
        self.lines, self.repeated = {"": _line(root)}, []
        return YamlDocument(self._value(root, "", 0), self.lines, tuple(self.repeated))

    def _value(self, node: yaml.Node, path: str, level: int) -> Any:
        self.count += 1
        if self.count > MOST_VALUES:
            raise NotReadable(f"{_position(node.start_mark)}: more than {MOST_VALUES} values; split it")
        if level > MOST_LEVELS:
            raise NotReadable(f"{_position(node.start_mark)}: holds itself")
        if isinstance(node, yaml.SequenceNode):
            return [self._item(item, f"{path}[{index}]", level) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, level)
        if ":" in node.value:
            return str(node.value)  # YAML 1.1 takes 65000:10 for a number of base 60, and knows time stamps
        try:
            value = self.loader.construct_object(node)
        except ValueError as error:
            raise NotReadable(f"{_position(node.start_mark)}: not YAML or JSON: {error}") from error
        return str(node.value) if isinstance(value, date) else value

    def _item(self, item: yaml.Node, path: str, level: int) -> Any:
        self.lines[path] = _line(item)
        return self._value(item, path, level + 1)

    def _mapping(self, node: yaml.MappingNode, path: str, level: int) -> dict[str, Any]:
        given = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        found: dict[str, Any] = {}
        self.loader.flatten_mapping(node)  # what `<<` brings comes first, so that a field beside it counts
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise NotReadable(f"{_position(key.start_mark)}: a key must be a word")
            at = f"{path}.{key.value}" if path else str(key.value)
            self.lines[at] = _line(key)
            if given.count(key.value) > 1 and at not in self.repeated:
                self.repeated.append(at)
            found[str(key.value)] = self._value(value, at, level + 1)
        return found


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _sentence(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
    position = f"{_position(mark)}: " if mark is not None else ""
    return f"{position}not YAML or JSON: {problem}"


def _position(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"
