"""ARCHITECTURE.md as data: its sections, the places in the code that it names, the words that it retires.

Promises: pure but for `place_exists`, which reads the named file. A list of retired words that cannot be read raises
ValueError with the line.
Does not know: which sections there must be, where a retired word may not stand.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ANCHOR = re.compile(r"`([\w./-]+\.py):([A-Za-z_][\w.]*)(?:\(\))?`")
PATH = re.compile(r"`((?:agent|bgp|ipam|systemd|tests|vagrant|bench|packaging|monitoring|docs)/[\w./-]*)`")
RETIRED = re.compile(r"^[-*] (?P<words>`[^`]+`(?:, `[^`]+`)*) → (?P<instead>\S.*)$")


def section(text: str, title: str) -> str:
    """What stands below a heading, such as `## Words`, down to the next of its depth or above; empty without it."""
    depth = len(title) - len(title.lstrip("#"))
    found = re.search(rf"^{re.escape(title)}$\n(.*?)(?=^#{{1,{depth}}} |\Z)", text, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def parts(text: str, depth: int) -> dict[str, str]:
    """What stands below each heading of that depth, by its title."""
    pieces = re.split(rf"^{'#' * depth} (.+)$", text, flags=re.MULTILINE)
    return dict(zip(pieces[1::2], pieces[2::2], strict=True))


def anchors(text: str) -> list[tuple[str, str]]:
    """Places of the form `path.py:name` or `path.py:Class.member`: the path and the name."""
    return ANCHOR.findall(text)


def place_exists(root: Path, path: str, name: str) -> bool:
    """Whether the file defines the name: a function, class, constant, method, field or attribute of a class."""
    if not (root / path).is_file():
        return False
    body: list[ast.stmt] = ast.parse((root / path).read_text()).body
    for part in name.split("."):
        found = [node for node in body if part in _defined(node)]
        if not found:
            return False
        body = found[0].body if isinstance(found[0], ast.ClassDef) else []
    return True


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.AnnAssign):
        return [node.target.id] if isinstance(node.target, ast.Name) else []
    if isinstance(node, ast.Assign):
        return [name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)]
    return []


@dataclass(frozen=True, slots=True)
class RetiredWord:
    """A word, or words in a row, that was used here and is no longer."""

    words: tuple[str, ...]
    """In lower case."""
    instead: str
    """What to use."""
    is_prose_too: bool
    """Whether prose may not use it either."""

    def is_in(self, name: tuple[str, ...]) -> bool:
        """Whether a name that was split is made of it: `peer_roster`, `PeerRoster` and `roster.full` of `roster`."""
        length = len(self.words)
        return any(name[at : at + length] == self.words for at in range(len(name) - length + 1))

    def lines(self, text: str) -> Iterator[int]:
        """Numbers of the lines where it stands as whole words, in any case; several may stand across a line's end."""
        pattern = r"\b" + r"[\s#]+".join(map(re.escape, self.words)) + r"\b"
        for found in re.finditer(pattern, text, re.IGNORECASE):
            yield text.count("\n", 0, found.start()) + 1

    def __str__(self) -> str:
        """The sentence of the fault."""
        return f"`{' '.join(self.words)}` is retired: {self.instead}"


def retired_words(text: str) -> list[RetiredWord]:
    """The two lists of `### Retired`, each below a line that says where: "In names", "Everywhere".

    Raises ValueError for an entry that is below neither, or not "- `word`, `word` → what to use instead".
    """
    found: list[RetiredWord] = []
    is_prose_too: bool | None = None
    for line in section(section(text, "## Words"), "### Retired").splitlines():
        said = line.strip("*_ ").lower()
        if said.startswith(("in names", "everywhere")):
            is_prose_too = said.startswith("everywhere")
        elif line.startswith(("- ", "* ")):
            entry = RETIRED.match(line)
            if entry is None or is_prose_too is None:
                raise ValueError(f"not an entry of a list of retired words: {line}")
            for word in re.findall(r"`([^`]+)`", entry["words"]):
                split = tuple(re.split(r"[ _]", word.lower()))
                found.append(RetiredWord(split, entry["instead"].rstrip("."), is_prose_too))
    return found
