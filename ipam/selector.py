"""Calico's selector language: `all()`, `rack == "r1" && !has(gpu)`, `zone in {"a", "b"}` … parsed once, matched often.

Promises: pure; whatever Calico's own parser takes means the same here, and an error says what was expected and where.
Rules (libcalico-go's selector tokenizer and parser): blanks are spaces and tabs; an operator in letters follows a label
directly and needs no blank behind it, nor inside (`notin`, `startswith`); a set may end with a comma; a label that is
not there is unequal to everything and in no set; `global()` matches everything.
Does not know: what the labels belong to, where `global()` makes sense.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

Labels = Mapping[str, str]
Match = Callable[[Labels], bool]

LONGEST_SELECTOR = 16_384
"""Calico has no limit; a set of four hundred node names is this long. It is parsed in some 20 to 50 ms."""
DEEPEST_NESTING = 50
MOST_CACHED = 256
"""Parsed selectors remembered, of half a MiB at most: pools are matched at every allocation."""

PUNCTUATION = re.compile(r"==|!=|&&|\|\||[!(){},]")
STRING = re.compile(r""" "[^"]*" | '[^']*' """, re.VERBOSE)
FUNCTION = re.compile(r"(?:all|has|global)(?=\()")
LABEL = re.compile(r"[A-Za-z0-9_./-]+")
COMPARISON = re.compile(r"contains|starts[ \t]*with|ends[ \t]*with|not[ \t]*in|in")
"""Behind a label, where no other label can be."""
BLANKS = " \t"


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
    if not text.strip(BLANKS):
        return Selector(text, lambda _: True)
    reader = _Reader(text)
    match = reader.either(0)
    reader.end()
    return Selector(text, match)


class TokenKind(Enum):
    """What a token is."""

    PUNCTUATION = 1
    STRING = 2
    FUNCTION = 3
    LABEL = 4
    COMPARISON = 5
    END = 6


Token = tuple[TokenKind, str, int]
"""Kind, text (a comparison without its blanks), and where it begins."""


def _tokens(text: str) -> Iterator[Token]:
    """The tokens of a selector. Raises SelectorError."""
    at, last = 0, TokenKind.END
    while at < len(text):
        if text[at] in BLANKS:
            at += 1
            continue
        behind_label = last is TokenKind.LABEL
        words = ((TokenKind.COMPARISON, COMPARISON),) if behind_label else WORDS
        candidates = ((kind, pattern.match(text, at)) for kind, pattern in (*SIGNS, *words))
        kind, found = next((one for one in candidates if one[1] is not None), (last, None))
        if found is None:
            if behind_label and LABEL.match(text, at):
                raise SelectorError(f"expected {OPERATORS} at character {at + 1}")
            raise SelectorError(f"unexpected {text[at]!r} at character {at + 1}")
        token = found[0] if kind is TokenKind.STRING else "".join(found[0].split())
        yield kind, token, at
        at, last = found.end(), kind


SIGNS = ((TokenKind.PUNCTUATION, PUNCTUATION), (TokenKind.STRING, STRING))
WORDS = ((TokenKind.FUNCTION, FUNCTION), (TokenKind.LABEL, LABEL))
OPERATORS = "'==', '!=', 'in', 'not in', 'contains', 'starts with' or 'ends with'"


class _Reader:
    """A parser by recursive descent: either := both (`||` both)*; both := term (`&&` term)*."""

    def __init__(self, text: str) -> None:
        self._at = 0
        self._tokens = [*_tokens(text), (TokenKind.END, "the end", len(text))]

    def _peek(self) -> Token:
        return self._tokens[self._at]

    def _wrong(self, expected: str) -> SelectorError:
        _, text, position = self._peek()
        return SelectorError(f"expected {expected} at character {position + 1}, found {text}")

    def _need(self, operator: str) -> None:
        if not self._follows(operator):
            raise self._wrong(repr(operator))

    def _follows(self, operator: str) -> bool:
        if self._peek()[:2] == (TokenKind.PUNCTUATION, operator):
            self._at += 1
            return True
        return False

    def end(self) -> None:
        """Make sure that nothing follows. Raises SelectorError."""
        if self._peek()[0] is not TokenKind.END:
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
        negated = False
        while self._follows("!"):
            negated = not negated
        match = self._positive_term(depth)
        return (lambda labels: not match(labels)) if negated else match

    def _positive_term(self, depth: int) -> Match:
        if self._follows("("):
            inner = self.either(depth + 1)
            self._need(")")
            return inner
        kind, word, _ = self._peek()
        if kind is TokenKind.FUNCTION:
            self._at += 1
            return self._function(word)
        if kind is not TokenKind.LABEL:
            raise self._wrong("a label, all() or has(label)")
        self._at += 1
        return self._comparison(word)

    def _function(self, name: str) -> Match:
        self._need("(")
        if name != "has":
            self._need(")")
            return lambda _: True
        kind, label, _ = self._peek()
        if kind is not TokenKind.LABEL:
            raise self._wrong("a label")
        self._at += 1
        self._need(")")
        return lambda labels: label in labels

    def _comparison(self, label: str) -> Match:
        kind, operator, _ = self._peek()
        if kind is TokenKind.PUNCTUATION and operator in EQUALITIES:
            self._at += 1
            value, equal = self._string(), EQUALITIES[operator]
            return lambda labels: (labels.get(label) == value) is equal
        if kind is not TokenKind.COMPARISON:
            raise self._wrong(OPERATORS)
        self._at += 1
        if operator in MEMBERSHIPS:
            values, inside = self._set(), MEMBERSHIPS[operator]
            return lambda labels: (labels.get(label) in values) is inside
        test, text = TEXT_TESTS[operator], self._string()
        return lambda labels: label in labels and test(labels[label], text)

    def _string(self) -> str:
        kind, text, _ = self._peek()
        if kind is not TokenKind.STRING:
            raise self._wrong("a quoted value")
        self._at += 1
        return text[1:-1]

    def _set(self) -> frozenset[str]:
        """Values in braces; a comma may follow the last."""
        self._need("{")
        values = []
        while self._peek()[0] is TokenKind.STRING:
            values.append(self._string())
            if not self._follows(","):
                break
        self._need("}")
        return frozenset(values)


EQUALITIES = {"==": True, "!=": False}
MEMBERSHIPS = {"in": True, "notin": False}
TEXT_TESTS: dict[str, Callable[[str, str], bool]] = {
    "contains": lambda value, text: text in value,
    "startswith": str.startswith,
    "endswith": str.endswith,
}
