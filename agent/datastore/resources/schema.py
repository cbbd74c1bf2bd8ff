"""What the fields of a kind are, and what that says of a plain value: unknown, changed, missing and kept fields.

Promises: pure; a field is named by its path as a person writes it, `spec.exportV4[0].action`.
Does not know: which kinds there are.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
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
    """`new`, and of `stored` what the kind does not know and what says the same: nothing changes its form unasked.

    A field of a newer program survives our write, and a default that somebody wrote out stays. A list is one value: a
    field of one of its items has no item in another list.
    """
    known = _fields(kind)
    if known is None:
        return new
    found = {name: value for name, value in stored.items() if name not in known and name != "kind"} | new
    for name, field in known.items():
        if name not in stored:
            continue
        value, before = new.get(name, ABSENT), stored[name]
        if isinstance(value, dict) and isinstance(before, dict) and fields(field.type) is not None:
            found[name] = with_unknown(value, before, field.type)
        elif field.meaning(before) == field.meaning(value):
            found[name] = before
    return found


@dataclass(frozen=True, slots=True)
class _Field:
    """One field of a struct, and what Go makes of it."""

    type: Any
    is_optional: bool
    default: Any
    """As JSON's values; ABSENT: there is none."""
    zero: object
    """Go's zero value of its type; None: it has none, or it is a pointer in Go, and its zero value says something."""
    is_object: bool

    def is_missing(self, value: object) -> bool:
        """Whether Go reads this value as it reads the field's absence."""
        if not self.is_optional or self.is_object:
            return False
        return value is None or (type(value) is type(self.zero) and value == self.zero)

    def meaning(self, value: object) -> Any:
        """What a value of the field, or ABSENT, says, whatever its form."""
        if value is ABSENT or self.is_missing(value):
            return self.default
        try:
            return msgspec.to_builtins(msgspec.convert(without_zeros(value, self.type), self.type))
        except msgspec.MsgspecError:
            return value


@cache
def _fields(kind: Any) -> Mapping[str, _Field] | None:
    for candidate in _candidates(kind):
        if isinstance(candidate, type) and issubclass(candidate, msgspec.Struct):
            types = fields(candidate) or {}
            pointers: frozenset[str] = getattr(candidate, "POINTERS", frozenset())
            found = {}
            for one in msgspec.structs.fields(candidate):
                name, of = one.encode_name, types[one.encode_name]
                default = one.default_factory() if callable(one.default_factory) else one.default
                is_object = fields(of) is not None
                is_unset = one.required or default is msgspec.UNSET
                plain = ABSENT if is_unset else msgspec.to_builtins(default)
                found[name] = _Field(
                    of, not one.required, plain, None if name in pointers else _zero(of), is_object
                )
            return found
    return None


def _zero(kind: Any) -> object:
    kinds = _candidates(kind)
    return "" if str in kinds else 0 if int in kinds else None


def without_zeros(raw: object, kind: Any) -> Any:
    """A stored value without what Go reads as missing: null and zero values of fields that it leaves out when empty.

    A field of a struct's POINTERS has no zero value but null. Null in an object's place stays (see `null_object`).
    """
    known = _fields(kind)
    if known is not None and isinstance(raw, dict):
        return {
            name: without_zeros(value, known[name].type) if name in known else value
            for name, value in raw.items()
            if name not in known or not known[name].is_missing(value)
        }
    for candidate in _candidates(kind):
        if get_origin(candidate) is list and isinstance(raw, list):
            return [without_zeros(item, get_args(candidate)[0]) for item in raw]
        if get_origin(candidate) is dict and get_args(candidate)[1] is str and isinstance(raw, dict):
            return {name: "" if value is None else value for name, value in raw.items()}
    return raw


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
