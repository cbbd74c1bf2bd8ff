"""What the fields of a kind are, and what that says of a plain value: canonical, unknown, changed and kept fields.

Promises: pure; a field is named by its path as a person writes it, `spec.exportV4[0].action`. One function brings what
people wrote and what is stored into the form that is decoded (`canonical_values`).
Does not know: which kinds there are.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec

from agent.datastore.resources.text_forms import TextForm

LONGEST_VALUE = 60
"""Of a value in a sentence about a change; the rest is cut."""
ABSENT = "(none)"
OTHERS_METADATA = frozenset(
    {
        *("managedFields", "selfLink", "generation", "ownerReferences", "finalizers", "clusterName"),
        *("deletionTimestamp", "deletionGracePeriodSeconds"),
    }
)
"""Fields of metadata in which Kubernetes and its tools keep notes of their own (ObjectMeta)."""

Document = dict[str, Any]
_Form = Callable[[Any], Any]


@cache
def fields(kind: Any) -> Mapping[str, Any] | None:
    """Name as written -> type, of the struct behind a type such as `BGPSpec | None`; None: there is no struct."""
    for candidate in _candidates(kind):
        if isinstance(candidate, type) and issubclass(candidate, msgspec.Struct):
            hints = get_type_hints(candidate, include_extras=True)
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
        elif path != "metadata" or name not in OTHERS_METADATA:
            yield f"{at}: unknown field{nearest(name, known)}"


def with_unknown(new: Document, stored: Mapping[str, Any], kind: Any) -> Document:
    """`new`, and of `stored` what the kind does not know and what says the same: nothing is dropped unasked.

    A field of a newer program survives our write, and a default that somebody wrote out stays; a text of several forms
    is written in its one form. A list is one value: a field of one of its items has no item in another list.
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
            found[name] = field.in_form(before)
    return found


def with_written(new: Document, written: Mapping[str, Any], kind: Any) -> Document:
    """`new`, and the defaults that a person wrote out in `written`, a document in canonical form."""
    known = _fields(kind)
    if known is None:
        return new
    found = dict(new)
    for name, value in written.items():
        if name in known and isinstance(value, dict) and isinstance(new.get(name), dict):
            found[name] = with_written(new[name], value, known[name].type)
        elif name in known and name not in new and value not in ({}, [], None):
            found[name] = value
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
    canonical: _Form
    """What brings a value into its form, and what is in it."""
    in_form: _Form
    """The same, of a text or a list of texts alone: what is in an object or a list of them stays as it is."""

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
            return msgspec.to_builtins(msgspec.convert(self.canonical(value), self.type))
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
                    of,
                    not one.required,
                    plain,
                    None if name in pointers else _zero(of),
                    is_object,
                    _canonical(of),
                    _text_form(of) or _same,
                )
            return found
    return None


def _zero(kind: Any) -> object:
    kinds = _candidates(kind)
    return "" if str in kinds else 0 if int in kinds else None


def canonical_values(raw: object, kind: Any) -> Any:
    """A value as it is meant: without what Go reads as missing, and its texts in their one form.

    Missing are null and the zero values of fields that Go leaves out when empty; a field of a struct's POINTERS has no
    zero value but null. Null in an object's place stays (see `null_object`), and so does what cannot be read.
    """
    return _canonical(kind)(raw)


def _same(value: Any) -> Any:
    return value


def _text_form(kind: Any) -> _Form | None:
    """The form that a type names, also one of a union's (`Network | None`)."""
    for option in _options(kind):
        for note in getattr(option, "__metadata__", ()):
            if isinstance(note, TextForm):
                return note.canonical
    return None


@cache
def _canonical(kind: Any) -> _Form:
    if (form := _text_form(kind)) is not None:
        return form
    for candidate in _candidates(kind):
        arguments = get_args(candidate)
        if fields(candidate) is not None:
            return partial(_canonical_object, candidate)
        if get_origin(candidate) is list and (
            (inside := _canonical(arguments[0])) is not _same or _is_text(arguments[0])
        ):
            return partial(_canonical_list, inside, _is_text(arguments[0]))
        if get_origin(candidate) is dict and arguments[1] is str:
            return _canonical_words
    return _same


def _canonical_object(kind: Any, raw: object) -> object:
    known = _fields(kind)
    if known is None or not isinstance(raw, dict):
        return raw
    found = {}
    for name, value in raw.items():
        field = known.get(name)
        if field is not None:
            value = field.canonical(value)
            if field.is_missing(value):
                continue
        found[name] = value
    return found


def _canonical_list(inside: _Form, is_of_texts: bool, raw: object) -> object:
    if not isinstance(raw, list):
        return raw
    return ["" if item is None and is_of_texts else inside(item) for item in raw]


def _canonical_words(raw: object) -> object:
    if not isinstance(raw, dict):
        return raw
    return {name: "" if value is None else value for name, value in raw.items()}


def _is_text(kind: Any) -> bool:
    return str in _candidates(kind)


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


def _options(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _candidates(kind: Any) -> tuple[Any, ...]:
    """What a type may be, without what is noted of it."""
    return tuple(get_args(one)[0] if get_origin(one) is Annotated else one for one in _options(kind))


def _text(value: object) -> str:
    text = value if value == ABSENT else json.dumps(value, ensure_ascii=False)
    return str(text) if len(str(text)) <= LONGEST_VALUE else f"{str(text)[:LONGEST_VALUE]}…"
