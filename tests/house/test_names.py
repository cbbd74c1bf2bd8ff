"""Names say what they name: none is vague, none is built of a word that ARCHITECTURE.md has retired, prose neither."""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ROOT
from tests.house.architecture import RetiredWord, retired_words
from tests.house.sources import EVERYTHING, PRODUCT, python_files, read, shown, split, tokens

VAGUE = re.compile(r"(?i)manager|helper|utils?$|^utils?_|^util_|common$|^misc")
LOGGED = ("debug", "info", "warning", "error", "exception", "critical")
"""Methods of a log whose first argument is an event's name."""
SNAKE = re.compile(r"[a-z0-9]+(_[a-z0-9]+)+")
"""A text that is a name: a metric's, a field's of an answer, a label's."""
WORDS = retired_words((ROOT / "ARCHITECTURE.md").read_text())


def vague(path: Path) -> list[str]:
    """Names of a module, its own and those that it defines, that say nothing."""
    defined = (
        node.name
        for node in ast.walk(read(path)[1])
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    )
    return [name for name in (path.stem, *defined) if VAGUE.search(name)]


def test_nothing_has_a_vague_name() -> None:
    found = {shown(path): vague(path) for path in python_files(*EVERYTHING)}
    assert {path: names for path, names in found.items() if names} == {}


def names_in(text: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of each identifier, each text of the form of a name, and each event that is logged."""
    for token in tokens(text):
        if token.type == tokenize.NAME:
            yield token.start[0], token.string
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and SNAKE.fullmatch(node.value):
            yield node.lineno, node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LOGGED:
            for event in ast.walk(node.args[0]) if node.args else ():
                if isinstance(event, ast.Constant) and isinstance(event.value, str):
                    yield event.lineno, event.value


def returned(place: str, text: str, words: list[RetiredWord], tree: ast.Module | None = None) -> list[str]:
    """A sentence for each retired word that a file uses again: in its own name, in names, in prose."""
    faults: list[tuple[int, str]] = []
    names: dict[str, list[tuple[int, tuple[str, ...]]]] = {}
    """Word -> lines and names made of it."""
    module = place.endswith(".py")
    for line, name in names_in(text, tree or ast.parse(text)) if module else ():
        for part in split(name):
            names.setdefault(part, []).append((line, split(name)))
    for word in words:
        used = {line for line, name in names.get(word.words[0], ()) if word.is_in(name)}
        if word.is_prose_too:
            used |= {*word.lines(text)}
        if any(word.is_in(split(part)) for part in Path(place).with_suffix("").parts):
            used.add(1)
        faults += [(line, str(word)) for line in used]
    return [f"{place}:{line}: {fault}" for line, fault in sorted(faults)]


def described() -> list[Path]:
    """Pages that say what is; docs/decisions and CHANGELOG.md say what was."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    return pages + [page for top in PRODUCT for page in (ROOT / top).rglob("*.md")]


def test_no_retired_word_comes_back() -> None:
    assert WORDS
    pages = [(page, page.read_text(), None) for page in described()]
    modules = [(path, *read(path)) for path in python_files(*PRODUCT)]
    found = [
        fault for path, text, tree in (*modules, *pages) for fault in returned(shown(path), text, WORDS, tree)
    ]
    assert not found, "\n".join(found)


LISTS = """## Words

### Retired

In names:

- `roster` → peer index
- `hop turn` → next-hop move.

**Everywhere**

- `wish`, `wishes` → desired
- `handed over` → transferred

### Others

- `kept`
"""
USED = '''"""What it wishes, and WISH.

Handed
over to nobody: a roster in prose, a wishful text.
"""

class PeerRoster:
    def hop_turn(self):
        log.info("roster.full", roster=1)
        return "bgp_roster_total", self.rosters, "turn of a hop", wish_list
'''


def test_a_retired_word_is_seen_in_names_and_in_prose() -> None:
    words = retired_words(LISTS)
    assert [" ".join(word.words) for word in words] == ["roster", "hop turn", "wish", "wishes", "handed over"]
    assert returned("agent/a.py", USED, words) == [
        "agent/a.py:1: `wish` is retired: desired",
        "agent/a.py:1: `wishes` is retired: desired",
        "agent/a.py:3: `handed over` is retired: transferred",
        "agent/a.py:7: `roster` is retired: peer index",
        "agent/a.py:8: `hop turn` is retired: next-hop move",
        "agent/a.py:9: `roster` is retired: peer index",
        "agent/a.py:10: `roster` is retired: peer index",
        "agent/a.py:10: `wish` is retired: desired",
    ]
    assert returned("agent/roster/a.py", "", words) == [
        "agent/roster/a.py:1: `roster` is retired: peer index"
    ]
    assert returned("docs/a.md", "A roster.\n\nA Wish: `wish`.\n", words) == [
        "docs/a.md:3: `wish` is retired: desired"
    ]


@pytest.mark.parametrize("entry", ["- roster → peer index", "- `roster`", "- `roster` ->"])
def test_an_entry_that_cannot_be_read_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="retired words"):
        retired_words(f"## Words\n### Retired\nIn names:\n{entry}\n")
    with pytest.raises(ValueError, match="retired words"):
        retired_words("## Words\n### Retired\n- `roster` → peer index\n")
