"""What docs/security.md promises, and tests/cases.md tells of, is proved by the tests that they name: each is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests import ROOT

TEXT = (ROOT / "docs/security.md").read_text()
CASES = (ROOT / "tests/cases.md").read_text()
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
ROW = re.compile(r"^\| (?!---)(.+) \| (.+) \|$", re.MULTILINE)


def missing(text: str, root: Path) -> list[str]:
    """The tests that a text names and that are not there."""
    return [f"{path}::{name}" for path, name in TEST.findall(text) if name not in functions(root / path)]


def functions(path: Path) -> set[str]:
    """The names of the functions of a file, none if there is no file."""
    if not path.exists():
        return set()
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, kinds)}


def unproved(text: str) -> list[str]:
    """The rows of tables, but for their heads, that name no test."""
    rows = (row for row in ROW.findall(text) if row[1] != "proved by")
    return [promise for promise, proof in rows if not TEST.search(proof)]


def test_every_test_that_the_page_names_is_there() -> None:
    assert missing(TEXT, ROOT) == []


def test_every_case_that_somebody_met_has_its_test() -> None:
    assert missing(CASES, ROOT) == []
    assert [case for case in unproved(CASES) if case != "case"] == []


def test_every_promise_of_the_page_names_its_proof() -> None:
    assert unproved(TEXT) == []


def test_a_promise_without_proof_and_a_test_that_is_gone_are_seen(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_a.py").write_text("async def test_that(): ...\n")
    text = "| it cannot | proved by |\n|---|---|\n| fly | `tests/test_a.py::test_this` |\n| swim | believe us |\n"
    assert missing(text + "`tests/test_a.py::test_that`", tmp_path) == ["tests/test_a.py::test_this"]
    assert unproved(text) == ["swim"]
