"""Who may import whom: every room of the product has a contract that names all its modules; no test imports a test."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest

from tests import ROOT
from tests.house.sources import PRODUCT, children, imported, packages, python_files, read, shown

WITHOUT_CONTRACT: frozenset[str] = frozenset()
"""Debts: packages whose modules import each other in circles; entries may only vanish."""
IMPORTING = frozenset(
    {
        "tests/agent/dataplane/explain/test_route_reasons.py",
        "tests/agent/dataplane/inputs/test_gather.py",
        "tests/agent/dataplane/test_cooperative.py",
        "tests/bgp/test_peer_status.py",
        "tests/ipam/allocation/test_histories_on_etcd.py",
    }
)
"""Debts: modules of tests that import a test; entries may only vanish."""


def unnamed(package: str, modules: set[str], contracts: list[dict[str, Any]]) -> list[str]:
    """Modules of a package that no single `layers` contract names together: the fewest that one leaves out."""
    layers = [
        {module for layer in contract["layers"] for module in re.split(r" [|:] ", layer)}
        for contract in contracts
        if contract["type"] == "layers"
    ]
    missing = [sorted(modules - named) for named in layers]
    return min(missing, key=len, default=sorted(modules))


def test_every_room_has_a_contract_that_names_all_its_modules() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    rooms = {shown(package).replace("/", "."): children(package) for package in packages(*PRODUCT)}
    found = {
        room: missing
        for room, modules in rooms.items()
        if len(modules) > 1
        and room not in WITHOUT_CONTRACT
        and (missing := unnamed(room, modules, contracts))
    }
    assert found == {}, "put each of these on a floor of its room, in pyproject.toml"


def test_a_module_on_no_floor_is_seen() -> None:
    layers = {"type": "layers", "layers": ["a.b.top", "a.b.left | a.b.right"]}
    forbidden = {"type": "forbidden", "source_modules": ["a.b.new"]}
    assert unnamed("a.b", {"a.b.top", "a.b.left", "a.b.right"}, [forbidden, layers]) == []
    assert unnamed("a.b", {"a.b.top", "a.b.new"}, [forbidden, layers]) == ["a.b.new"]
    assert unnamed("a.b", {"a.b.top"}, []) == ["a.b.top"]


def imported_tests(tree: ast.Module) -> Iterator[str]:
    """Modules of pytest's own collection that a module imports."""
    for name in imported(tree):
        if any(part.startswith("test_") or part == "conftest" for part in name.split(".")):
            yield name


def test_no_test_imports_a_test() -> None:
    found = {shown(path): [*imported_tests(read(path)[1])] for path in python_files("tests")}
    assert {path: names for path, names in found.items() if names and path not in IMPORTING} == {}


@pytest.mark.parametrize(
    "line",
    [
        "from tests.lab.conftest import MakeLab",
        "from tests.contract import test_store as contract",
        "def f():\n    from tests.suite import test_suite",
        "import tests.bgp.test_peer",
    ],
)
def test_an_import_of_a_test_is_seen(line: str) -> None:
    assert len([*imported_tests(ast.parse(line))]) == 1
    assert [*imported_tests(ast.parse("from tests.scenes.lab.labs import MakeLab\nimport pytest"))] == []
