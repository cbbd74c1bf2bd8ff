"""The house stays small: no long file, no long function, no vague name, no machine's path, no mock."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILE_LIMIT, FUNCTION_LIMIT = 400, 70
LONG_FILES: dict[str, int] = {}
"""Debts: file -> lines; entries may only shrink or vanish."""
VAGUE = re.compile(r"(?i)manager|helper|utils?$|^utils?_|^util_|common$|^misc")
C_LINES = 130
"""The CNI shim in C is about a hundred lines."""


def sources() -> Iterator[Path]:
    for folder in ("agent", "ipam", "bgp", "bench", "vagrant", "tests"):
        yield from sorted((ROOT / folder).rglob("*.py"))


SOURCES = [pytest.param(path, id=str(path.relative_to(ROOT))) for path in sources()]


@pytest.mark.parametrize("path", SOURCES)
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= max(FILE_LIMIT, LONG_FILES.get(str(path.relative_to(ROOT)), 0))
    long = [
        (node.name, (node.end_lineno or 0) - node.lineno + 1)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LIMIT
    ]
    assert long == []


@pytest.mark.parametrize("path", SOURCES)
def test_every_module_says_what_it_is(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring
    assert docstring[0].isupper() or docstring[0] == "`"


@pytest.mark.parametrize("path", SOURCES)
def test_nothing_has_a_vague_name(path: Path) -> None:
    names = [path.stem] + [
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert [name for name in names if VAGUE.search(name)] == []


def test_there_is_at_most_one_c_file_and_it_is_short() -> None:
    found = list(ROOT.glob("agent/**/*.c"))
    assert len(found) <= 1
    assert all(path.read_text().count("\n") <= C_LINES for path in found)


def test_every_dependency_is_pinned_with_a_hash_and_names_no_host() -> None:
    text = (ROOT / "requirements.lock").read_text()
    pinned = re.findall(r"^[a-z0-9-]+(?:\[[a-z,]+\])?==\S+ \\\n    --hash=sha256:", text, re.MULTILINE)
    assert len(pinned) == len(re.findall(r"^[a-z0-9-]+(?:\[[a-z,]+\])?==", text, re.MULTILINE)) > 20
    assert "http" not in text
