"""Calico's selector language: `all()`, `rack == "r1" && !has(gpu)`, `zone in {"a", "b"}` … parsed once, matched often.

Promises: pure; the whole language of Calico's selectors but `global()`, which makes no sense on a pool; an error says
what was expected and where. Does not know: what the labels belong to.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

Labels = Mapping[str, str]
Match = Callable[[Labels], bool]

LONGEST_SELECTOR = 4096
DEEPEST_NESTING = 50
MOST_CACHED = 1024
"""Parsed selectors remembered: pools are matched at every allocation."""

TOKEN = re.compile(
    r"""\s*(?:
        (?P<string>"[^"]*"|'[^']*')
      | (?P<operator>==|!=|&&|\|\||!|\(|\)|\{|\}|,)
      | (?P<word>[A-Za-z0-9_./-]+)
    )""",
    re.VERBOSE,
)


class SelectorError(ValueError):
    """A selector that cannot be parsed; the text says what is wrong, and at which character."""


@dataclass(frozen=True, slots=True)
class Selector:
    """A parsed selector."""

    text: str
    _match: Match

    def matches(self, labels: Labels) -> bool:
        """Whether something with these labels is selected."""
        return self._match(labels)


@lru_cache(maxsize=MOST_CACHED)
def parse(text: str) -> Selector:
    """The selector behind a text; an empty one selects everything. Raises SelectorError."""
    if len(text) > LONGEST_SELECTOR:
        raise SelectorError(f"longer than {LONGEST_SELECTOR} characters")
    if not text.strip():
        return Selector(text, lambda _: True)
    reader = _Reader(text)
    match = reader.either(0)
    reader.end()
    return Selector(text, match)


class _Reader:
    """A parser by recursive descent: either := both (`||` both)*; both := term (`&&` term)*."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._tokens: list[tuple[str, str, int]] = []
        position = 0
        while position < len(text.rstrip()):
            found = TOKEN.match(text, position)
            if found is None:
                bad = len(text) - len(text[position:].lstrip())
                raise SelectorError(f"unexpected {text[bad]!r} at character {bad + 1}")
            kind = found.lastgroup or ""
            self._tokens.append((kind, found.group(kind), found.start(kind)))
            position = found.end()

    def _peek(self) -> tuple[str, str, int]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "the end", len(self._text))

    def _take(self) -> tuple[str, str, int]:
        token = self._peek()
        self._at += 1
        return token

    def _wrong(self, expected: str) -> SelectorError:
        _, text, position = self._peek()
        return SelectorError(f"expected {expected} at character {position + 1}, found {text}")

    def _need(self, operator: str) -> None:
        if not self._follows(operator):
            raise self._wrong(repr(operator))

    def _follows(self, operator: str) -> bool:
        if self._peek()[:2] == ("operator", operator):
            self._at += 1
            return True
        return False

    def end(self) -> None:
        """Make sure that nothing follows. Raises SelectorError."""
        if self._at < len(self._tokens):
            raise self._wrong("'&&', '||' or the end")

    def either(self, depth: int) -> Match:
        """Parse alternatives joined by `||`. Raises SelectorError."""
        if depth > DEEPEST_NESTING:
            raise SelectorError(f"nested deeper than {DEEPEST_NESTING}")
        parts = [self._both(depth)]
        while self._follows("||"):
            parts.append(self._both(depth))
        return parts[0] if len(parts) == 1 else lambda labels: any(part(labels) for part in parts)

    def _both(self, depth: int) -> Match:
        parts = [self._term(depth)]
        while self._follows("&&"):
            parts.append(self._term(depth))
        return parts[0] if len(parts) == 1 else lambda labels: all(part(labels) for part in parts)

    def _term(self, depth: int) -> Match:
        if self._follows("!"):
            if depth > DEEPEST_NESTING:
                raise SelectorError(f"nested deeper than {DEEPEST_NESTING}")
            inner = self._term(depth + 1)
            return lambda labels: not inner(labels)
        if self._follows("("):
            inner = self.either(depth + 1)
            self._need(")")
            return inner
        kind, word, _ = self._peek()
        if kind != "word":
            raise self._wrong("a label, all() or has(label)")
        self._at += 1
        if word in ("all", "has") and self._peek()[:2] == ("operator", "("):
            return self._function(word)
        return self._comparison(word)

    def _function(self, name: str) -> Match:
        self._need("(")
        if name == "all":
            self._need(")")
            return lambda _: True
        if self._peek()[0] != "word":
            raise self._wrong("a label")
        _, label, _ = self._take()
        self._need(")")
        return lambda labels: label in labels

    def _comparison(self, label: str) -> Match:
        if self._follows("=="):
            value = self._string()
            return lambda labels: labels.get(label) == value
        if self._follows("!="):
            value = self._string()
            return lambda labels: labels.get(label) != value
        kind, word, _ = self._take()
        if kind == "word" and word == "not" and self._peek()[1] == "in":
            self._at += 1
            values = self._set()
            return lambda labels: labels.get(label) not in values
        if kind == "word" and word == "in":
            values = self._set()
            return lambda labels: labels.get(label) in values
        if kind == "word" and word in TEXT_TESTS:
            if word in ("starts", "ends"):
                if self._peek()[1] != "with":
                    raise self._wrong("'with'")
                self._at += 1
            test, text = TEXT_TESTS[word], self._string()
            return lambda labels: label in labels and test(labels[label], text)
        self._at -= 1
        raise self._wrong("'==', '!=', 'in', 'not in', 'contains', 'starts with' or 'ends with'")

    def _string(self) -> str:
        kind, text, _ = self._peek()
        if kind != "string":
            raise self._wrong("a quoted value")
        self._at += 1
        return text[1:-1]

    def _set(self) -> frozenset[str]:
        self._need("{")
        if self._follows("}"):
            return frozenset()
        values = [self._string()]
        while self._follows(","):
            values.append(self._string())
        self._need("}")
        return frozenset(values)


TEXT_TESTS: dict[str, Callable[[str, str], bool]] = {
    "contains": lambda value, text: text in value,
    "starts": str.startswith,
    "ends": str.endswith,
}
