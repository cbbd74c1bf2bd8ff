"""Every module says what it is; one with functions or classes says what it promises and what not."""

from __future__ import annotations

import ast
import re

from tests.house.sources import EVERYTHING, PRODUCT, python_files, read, shown

SENTENCE = re.compile(r"[A-Z`].*[.:…]", re.DOTALL)
PARTS = ("Promises:", "Does not know:")
WITHOUT_PARTS = frozenset(
    {
        "agent/datastore/etcd_settings.py",
        "bgp/__main__.py",
        "bgp/events.py",
        "bgp/peer_config.py",
        "bgp/policy/origination.py",
        "bgp/session/notification_text.py",
        "bgp/wire/errors.py",
        "bgp/wire/families.py",
        "bgp/wire/iana.py",
        "ipam/etcd/store.py",
        "ipam/failures.py",
    }
)
"""Debts: modules whose heads lack a part; entries may only vanish."""


def first_paragraph(tree: ast.Module) -> str:
    """Of the module's docstring; empty if it has none."""
    return (ast.get_docstring(tree) or "").partition("\n\n")[0]


def lacking(tree: ast.Module) -> list[str]:
    """Parts that the head must have and has not: values and constants need none."""
    if not any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) for node in tree.body):
        return []
    head = ast.get_docstring(tree) or ""
    return [part for part in PARTS if part not in head]


def test_every_module_says_what_it_is_in_a_sentence() -> None:
    said = {shown(path): first_paragraph(read(path)[1]) for path in python_files(*EVERYTHING)}
    assert {path: text for path, text in said.items() if not SENTENCE.fullmatch(text)} == {}


def test_every_module_says_what_it_promises_and_what_it_does_not_know() -> None:
    found = {shown(path): lacking(read(path)[1]) for path in python_files(*PRODUCT)}
    assert {path: parts for path, parts in found.items() if parts and path not in WITHOUT_PARTS} == {}


def test_a_head_that_lacks_a_part_is_seen() -> None:
    body = "\n\ndef f():\n    pass\n"
    assert lacking(ast.parse('"""A head."""' + body)) == list(PARTS)
    assert lacking(ast.parse('"""A head.\n\nPromises: pure.\n"""' + body)) == ["Does not know:"]
    assert lacking(ast.parse('"""A head.\n\nPromises: pure.\nDoes not know: the world.\n"""' + body)) == []
    assert lacking(ast.parse('"""A head."""\n\nA = 1\n')) == []
    assert first_paragraph(ast.parse("a = 1")) == ""
    assert not SENTENCE.fullmatch("")
    assert not SENTENCE.fullmatch("a head.")
    assert not SENTENCE.fullmatch("A head")
