"""The house stays small: no long file, no long function, no crowded folder, one short file of C."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

from tests import ROOT
from tests.house.sources import EVERYTHING, PRODUCT, code_lines, folders, functions, python_files, read, shown

FILE_LIMIT, FUNCTION_LIMIT = 400, 70
"""Lines of code: documentation is free."""
FOLDER_LIMIT = 15
"""Files that lie directly in a folder, whatever their language, `__init__.py` apart: it has only a head."""
CROWDED: dict[str, int] = {}
"""Debts: folder -> files; entries may only shrink or vanish."""
C_LINES = 130
"""The CNI shim in C is about a hundred lines."""


def too_long(text: str, tree: ast.Module | None = None) -> list[str]:
    """Faults of one module."""
    if text.count("\n") <= FUNCTION_LIMIT:
        return []
    tree = tree or ast.parse(text)
    lines = code_lines(text, tree)
    faults = [f"the file has {len(lines)} lines of code"] if len(lines) > FILE_LIMIT else []
    for node in functions(tree):
        length = len(lines & set(range(node.lineno, (node.end_lineno or 0) + 1)))
        if length > FUNCTION_LIMIT:
            faults.append(f"{node.name} has {length} lines of code")
    return faults


def test_files_and_functions_stay_small() -> None:
    found = {shown(path): too_long(*read(path)) for path in python_files(*EVERYTHING)}
    assert {path: faults for path, faults in found.items() if faults} == {}


def test_documentation_is_free_and_code_is_not() -> None:
    head = '"""A head.\n\nOf three lines.\n"""\n# A comment.\n\n'
    documented = "class A:\n    b: int\n    '''Of an\n    attribute.'''\n"
    assert code_lines(head + documented) == {7, 8}
    assert too_long(head + "# More.\n" * 500 + "a = 1\n") == []
    assert too_long(head + "a = 1\n" * 401) == ["the file has 401 lines of code"]
    assert too_long("a = '''\n" + "text\n" * 400 + "'''\n") == ["the file has 402 lines of code"]
    assert too_long("def f():\n" + "    a = 1\n" * 70) == ["f has 71 lines of code"]
    assert too_long("def f():\n" + "    # Why.\n" * 70 + "    a = 1\n" * 69) == []


def test_no_folder_is_crowded() -> None:
    found = {
        shown(folder): len(files)
        for top in (*PRODUCT, "tests")
        for folder, files in folders(ROOT / top).items()
        if len(files) > FOLDER_LIMIT
    }
    assert {name: count for name, count in found.items() if count > CROWDED.get(name, 0)} == {}


def test_a_crowded_folder_is_seen(tmp_path: Path) -> None:
    room = tmp_path / "room"
    room.mkdir()
    for name in ("__init__.py", "a.py", "shim.c"):
        (room / name).touch()
    assert folders(tmp_path) == {room: ["a.py", "shim.c"]}


def test_no_file_name_occurs_twice_in_the_product() -> None:
    names = Counter(path.name for path in python_files(*PRODUCT) if not path.name.startswith("__"))
    assert [name for name, count in names.items() if count > 1] == []


def test_there_is_at_most_one_c_file_and_it_is_short() -> None:
    found = list(ROOT.glob("agent/**/*.c"))
    assert len(found) <= 1
    assert all(path.read_text().count("\n") <= C_LINES for path in found)


def test_every_dependency_is_pinned_with_a_hash_and_names_no_host() -> None:
    text = (ROOT / "requirements.lock").read_text()
    pinned = re.findall(r"^[a-z0-9-]+(?:\[[a-z,]+\])?==\S+ \\\n    --hash=sha256:", text, re.MULTILINE)
    assert len(pinned) == len(re.findall(r"^[a-z0-9-]+(?:\[[a-z,]+\])?==", text, re.MULTILINE)) > 20
    assert "http" not in text
