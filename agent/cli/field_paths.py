"""`-o jsonpath=…` and `-o custom-columns=…`: fields of resources by kubectl's paths.

Promises: pure text. Of kubectl's JSONPath: `.name`, `['name']`, `[n]`, `[*]`, `{range PATH} … {end}`, text in quotes
and between braces; what else it has (filters, slices, `..`) is refused by a sentence. Does not know: the kinds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from agent.cli.command import CommandFailed

LONGEST_TEMPLATE = 4096
"""Characters."""
MOST_RANGES = 8
"""Ranges inside each other."""
NOTHING = "<none>"
"""A cell without a value, as kubectl has it."""
STEP = re.compile(r"\.([\w/-]+)|\['((?:[^'\\]|\\.)*)'\]|\[(-?\d{1,9})\]|(\[\*\]|\.\*)")
ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}

Step = str | int | None
"""A key, a place in a list, or None for everything below."""


class _Piece(NamedTuple):
    """A part of a template: text, a path, or a range over a path with pieces of its own."""

    text: str
    path: tuple[Step, ...] | None = None
    body: tuple[_Piece, ...] | None = None


def path_steps(text: str) -> tuple[Step, ...]:
    """The steps of `.metadata.labels['a/b']`, with or without a leading `$` or `@`. Raises CommandFailed."""
    rest = text.strip().removeprefix("$").removeprefix("@")
    if rest and rest[0] not in ".[":
        rest = f".{rest}"
    found: list[Step] = []
    at = 0
    while at < len(rest) and rest != ".":
        step = STEP.match(rest, at)
        if step is None:
            raise CommandFailed(
                f"path {text!r}: {rest[at:]!r} is not understood; write .a.b, ['a'], [0] or [*], one after another"
            )
        name, quoted, number, _ = step.groups()
        if number is not None:
            found.append(int(number))
        elif quoted is not None:
            found.append(re.sub(r"\\(.)", r"\1", quoted))
        else:
            found.append(name)
        at = step.end()
    return tuple(found)


def values_at(value: Any, steps: Sequence[Step]) -> list[Any]:
    """All values that a path leads to from here; none where a step leads nowhere."""
    found = [value]
    for step in steps:
        found = [below for each in found for below in _below(each, step)]
    return found


def _below(value: Any, step: Step) -> list[Any]:
    if step is None:
        return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    if isinstance(step, int):
        fits = isinstance(value, list) and -len(value) <= step < len(value)
        return [value[step]] if fits else []
    return [value[step]] if isinstance(value, dict) and step in value else []


def printed(value: Any) -> str:
    """A value as kubectl prints it: text as it is, all else as JSON."""
    import json

    return value if isinstance(value, str) else json.dumps(value)


def filled(template: str, value: Any) -> str:
    """A JSONPath template with a document's values in it. Raises CommandFailed."""
    if len(template) > LONGEST_TEMPLATE:
        raise CommandFailed(f"jsonpath: more than {LONGEST_TEMPLATE} characters")
    if "{" not in template:
        template = f"{{{template}}}"
    tokens = _tokens(template)
    pieces = tuple(_pieces(tokens, 0))
    return "".join(_texts(pieces, value))


def _tokens(template: str) -> Iterator[tuple[bool, str]]:
    """(whether it stood in braces, its text)."""
    at = 0
    for found in re.finditer(r"""\{((?:[^{}"']|"[^"]*"|'[^']*')*)\}""", template):
        if found.start() > at:
            yield False, template[at : found.start()]
        yield True, found.group(1).strip()
        at = found.end()
    if at < len(template):
        yield False, template[at:]


def _pieces(tokens: Iterator[tuple[bool, str]], depth: int) -> Iterator[_Piece]:
    for in_braces, text in tokens:
        if not in_braces:
            if "{" in text or "}" in text:
                raise CommandFailed(f"jsonpath: a brace without its other one in {text!r}")
            yield _Piece(text)
        elif text == "end":
            if depth == 0:
                raise CommandFailed("jsonpath: {end} without {range}")
            return
        elif text.startswith("range "):
            if depth == MOST_RANGES:
                raise CommandFailed(f"jsonpath: more than {MOST_RANGES} ranges inside each other")
            yield _Piece("", path_steps(text[6:]), tuple(_pieces(tokens, depth + 1)))
        elif text[:1] in ('"', "'"):
            yield _Piece(re.sub(r"\\(.)", lambda found: ESCAPES.get(found[1], found[1]), text[1:-1]))
        else:
            yield _Piece("", path_steps(text))
    if depth:
        raise CommandFailed("jsonpath: {range} without {end}")


def _texts(pieces: Sequence[_Piece], value: Any) -> Iterator[str]:
    for piece in pieces:
        if piece.path is None:
            yield piece.text
        elif piece.body is None:
            yield " ".join(printed(each) for each in values_at(value, piece.path))
        else:
            for each in values_at(value, piece.path):
                yield from _texts(piece.body, each)


def column_paths(text: str) -> list[tuple[str, tuple[Step, ...]]]:
    """`NAME:.metadata.name,CIDR:.spec.cidr` as heads and paths. Raises CommandFailed."""
    found = []
    for column in text.split(","):
        head, colon, path = column.partition(":")
        if not head or not colon or not path:
            raise CommandFailed(f"custom-columns: {column!r} is not HEAD:.path, such as NAME:.metadata.name")
        found.append((head, path_steps(path)))
    return found


def cell(value: Any, steps: Sequence[Step]) -> str:
    """What a custom column shows of a resource."""
    found = values_at(value, steps)
    return ",".join(printed(each) for each in found) if found else NOTHING
