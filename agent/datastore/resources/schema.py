"""What the fields of a kind are, and what that says of a plain value: unknown fields, changed fields, fields to keep.

Promises: pure; a field is named by its path as a person writes it, `spec.exportV4[0].action`.
Does not know: which kinds there are.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec

LONGEST_VALUE = 60
"""Of a value in a sentence about a change; the rest is cut."""
ABSENT = "(none)"

Document = dict[str, Any]


@cache
def fields(kind: Any) -> Mapping[str, Any] | None:
    """Name as written -> type, of the struct behind a type such as `BGPSpec | None`; None: there is no struct."""
    for candidate in _candidates(kind):
        if isinstance(candidate, type) and issubclass(candidate, msgspec.Struct):
            hints = get_type_hints(candidate)
            return {field.encode_name: hints[field.name] for field in msgspec.structs.fields(candidate)}
    return None


def unknown_fields(raw: object, kind: Any, path: str = "") -> Iterator[str]:
    """A sentence for each field that the kind does not have, with the nearest that it has."""
    known = fields(kind)
    if known is None or not isinstance(raw, dict):
        for candidate in _candidates(kind):
            if get_origin(candidate) is list and isinstance(raw, list):
                for index, item in enumerate(raw):
                    yield from unknown_fields(item, get_args(candidate)[0], f"{path}[{index}]")
        return
    if not path:
        known = {**known, "kind": str}
    for name, value in raw.items():
        at = f"{path}.{name}" if path else name
        if name in known:
            yield from unknown_fields(value, known[name], at)
        elif path != "metadata":
            # Other tools have their own notes in metadata: managedFields, selfLink, generation.
            yield f"{at}: unknown field{nearest(name, known)}"


def with_unknown(new: Document, stored: Mapping[str, Any], kind: Any) -> Document:
    """`new`, and of `stored` what the kind does not know: a field of a newer program survives our write.

    A list is one value: a field of one of its items has no item in another list.
    """
    found_fields = fields(kind)
    if found_fields is None:
        return new
    known = {**found_fields, "kind": str}
    found = {name: value for name, value in stored.items() if name not in known} | new
    for name, value in new.items():
        before = stored.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            found[name] = with_unknown(value, before, known.get(name))
    return found


def null_object(raw: object, kind: Any, path: str = "") -> str | None:
    """The first field that is null where an object belongs: nobody writes that, it is what is left of a slip."""
    known = fields(kind)
    if known is None or not isinstance(raw, dict):
        return None
    for name, value in raw.items():
        of = known.get(name)
        at = f"{path}.{name}" if path else name
        if value is None and fields(of) is not None:
            return at
        if (found := null_object(value, of, at)) is not None:
            return found
    return None


def changes(old: object, new: object, path: str = "") -> Iterator[str]:
    """A sentence for each field that differs: `spec.natOutgoing: false -> true`."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            at = f"{path}.{name}" if path else name
            yield from changes(old.get(name, ABSENT), new.get(name, ABSENT), at)
    elif old != new:
        yield f"{path}: {_text(old)} -> {_text(new)}"


def merged(target: object, patch: object) -> Any:
    """RFC 7386: fields replace fields, null removes one, anything but an object replaces the whole."""
    if not isinstance(patch, dict):
        return patch
    found = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            found.pop(name, None)
        else:
            found[name] = merged(found.get(name), value)
    return found


def value_at(document: Any, path: tuple[str, ...]) -> Any:
    """The value of a field by the names that lead to it; None where there is none, or an empty one."""
    for name in path:
        document = document.get(name) if isinstance(document, dict) else None
    return document or None


def nearest(name: object, known: Iterable[str]) -> str:
    """A hint at the name that was probably meant."""
    by_lower = {word.lower(): word for word in known}
    close = difflib.get_close_matches(str(name).lower(), by_lower, n=1)
    return f"; did you mean {by_lower[close[0]]}?" if close else ""


def _candidates(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _text(value: object) -> str:
    text = value if value == ABSENT else json.dumps(value, ensure_ascii=False)
    return str(text) if len(str(text)) <= LONGEST_VALUE else f"{str(text)[:LONGEST_VALUE]}…"
