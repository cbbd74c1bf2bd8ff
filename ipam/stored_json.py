"""The one door through which stored values come: bytes that anybody may have written become a value, or Unreadable.

Promises: no JSON parser sees a value that is too large, too deep or no UTF-8, and whatever goes wrong while a value is
read is Unreadable, with the value's key and revision; nothing read ends a task. Sentences about what was read are
printable and short. JSON is RFC 8259's: no NaN, no Infinity, no byte order mark; of a field given twice the last
counts, as in Calico.
Does not know: what a value means, which keys there are.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from ipam.etcd.store import Versioned
from ipam.failures import Unreadable

MOST_BYTES = 2 << 20
"""Of one value; etcd's own default for a whole request is 1.5 MiB (--max-request-bytes)."""
MOST_DEPTH = 32
"""Of objects and lists in each other; Calico's own resources have seven."""
LONGEST_WHY = 300
"""Characters of a sentence about a value."""
LONGEST_KEY = 512
"""Characters of a key in sentences; no key of Calico's is longer than 900, and few are longer than 200."""

_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_Value = TypeVar("_Value")


def read_stored(stored: Versioned, read: Callable[[Versioned], _Value]) -> _Value:
    """What `read` makes of a stored value. Raises Unreadable, and nothing else, whatever is in the value."""
    try:
        check(stored)
        return read(stored)
    except Unreadable:
        raise
    except Exception as error:  # the value is anybody's, and only here all is caught
        raise unreadable(stored, _words(error)) from error


def unreadable(stored: Versioned, why: str) -> Unreadable:
    """That this value cannot be used."""
    return Unreadable(printable(stored.key, LONGEST_KEY), stored.revision, printable(why, LONGEST_WHY))


def stored_object(stored: Versioned) -> dict[str, Any]:
    """The JSON object of a value, for use inside of `read_stored`. Raises MsgspecError, ValueError, TypeError."""
    raw = msgspec.json.decode(stored.value)
    if not isinstance(raw, dict):
        raise TypeError(f"expected a JSON object, got {_json_type(raw)}")
    return raw


def check(stored: Versioned) -> None:
    """Whether key and value may be looked at by a parser. Raises ValueError."""
    if not is_text(stored.key):
        raise ValueError("its key is not UTF-8")
    if len(stored.value) > MOST_BYTES:
        raise ValueError(f"{len(stored.value)} bytes are more than {MOST_BYTES}")
    if is_too_deep(stored.value):
        raise ValueError(f"objects and lists are nested deeper than {MOST_DEPTH}")


def is_text(key: str) -> bool:
    """Whether a key was UTF-8: one that is not bears its other bytes as lone surrogates (`surrogateescape`)."""
    return key.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in key)


def is_too_deep(value: bytes) -> bool:
    """Whether objects and lists are nested deeper than MOST_DEPTH, in valid JSON or not; linear, without recursion."""
    return _is_deep(value) and _is_deep(_STRING.sub(b"", value))  # brackets in texts are none, and rare


def _is_deep(value: bytes) -> bool:
    brackets = value.translate(_ONE_KIND, _NO_BRACKETS)
    if len(brackets) <= MOST_DEPTH:
        return False
    for _ in range(MOST_DEPTH):  # each round takes the innermost level away
        brackets = brackets.replace(b"[]", b"")
        if not brackets:
            return False
    return b"[]" in brackets or len(brackets) > MOST_DEPTH


def printable(text: str, longest: int = LONGEST_WHY) -> str:
    """A text of anybody's for a line of a log, a terminal or JSON: nothing that moves a cursor, and not long."""
    shown = "".join(letter if letter.isprintable() else _escaped(letter) for letter in text[: longest + 1])
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def _escaped(letter: str) -> str:
    code = ord(letter)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8, as `surrogateescape` has it
        return f"\\x{code - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode()


def _words(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error.args[0]}: is missing"
    if isinstance(error, UnicodeDecodeError) or type(error) is msgspec.DecodeError:
        return f"not JSON: {error}"
    if isinstance(error, ValueError | TypeError | msgspec.MsgspecError) and str(error):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _json_type(raw: object) -> str:
    names = {list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    return names.get(type(raw), "a number")
