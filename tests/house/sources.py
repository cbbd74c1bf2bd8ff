"""The repository as its tests see it: Python files, lines of code, names, folders.

Promises: a line of code is neither blank nor a comment nor a docstring, of a module, class, function or attribute; all
lines of a statement count that stands on several.
Does not know: what is too long, too many or badly named.
"""

from __future__ import annotations

import ast
import gc
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests import ROOT

PRODUCT = ("agent", "bgp", "ipam")
EVERYTHING = (*PRODUCT, "bench", "packaging", "tests", "vagrant")
WORDLESS = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
"""Tokens that do not make their line one of code."""


def python_files(*folders: str) -> list[Path]:
    """Python files in and below folders of the repository, in order."""
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def shown(path: Path) -> str:
    """The path as a reader of the repository writes it."""
    return str(path.relative_to(ROOT))


def read(path: Path) -> tuple[str, ast.Module]:
    """A file's text and its syntax tree."""
    return _everything()[path]


@cache
def _everything() -> dict[Path, tuple[str, ast.Module]]:
    """All files at once, then left alone by the garbage collector: it would take three times as long as the reading."""
    gc.disable()
    texts = {path: path.read_text() for path in python_files(*EVERYTHING)}
    found = {path: (text, ast.parse(text)) for path, text in texts.items()}
    gc.freeze()
    gc.enable()
    return found


def tokens(text: str) -> Iterator[tokenize.TokenInfo]:
    """What Python sees in a text, comments included."""
    return tokenize.generate_tokens(io.StringIO(text).readline)


def code_lines(text: str, tree: ast.Module | None = None) -> set[int]:
    """Numbers of the lines that are code."""
    lines: set[int] = set()
    for token in tokens(text):
        if token.type not in WORDLESS:
            first, last = token.start[0], token.end[0]
            lines.add(first)
            if last > first:
                lines.update(range(first, last + 1))
    for node in ast.walk(tree or ast.parse(text)):
        if hasattr(node, "body"):
            for statement in docstrings(node):
                lines -= set(range(statement.lineno, (statement.end_lineno or 0) + 1))
    return lines


def docstrings(node: ast.AST) -> Iterator[ast.Expr]:
    """Statements of a body that are a string alone: its docstring, and those of its attributes."""
    body = getattr(node, "body", None)
    for statement in body if isinstance(body, list) else ():
        value = statement.value if isinstance(statement, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield statement


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Functions and methods of a module, those within others too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def imported(tree: ast.Module) -> Iterator[str]:
    """Modules that a module imports, and what it takes from them, as dotted names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def folders(top: Path) -> dict[Path, list[str]]:
    """Files that lie directly in each folder from `top` down, `__init__.py` apart: it has only a head."""
    found: dict[Path, list[str]] = {}
    for path in sorted(top.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and path.name != "__init__.py":
            found.setdefault(path.parent, []).append(path.name)
    return found


def children(package: Path) -> set[str]:
    """Dotted names of modules and packages that lie directly in a package."""
    name = shown(package).replace("/", ".")
    modules = {path.stem for path in package.glob("*.py") if path.name != "__init__.py"}
    packages = {path.parent.name for path in package.glob("*/__init__.py")}
    return {f"{name}.{child}" for child in modules | packages}


def packages(*tops: str) -> list[Path]:
    """Folders with an `__init__.py`, from the top ones down."""
    return [path.parent for path in python_files(*tops) if path.name == "__init__.py"]


@cache
def split(name: str) -> tuple[str, ...]:
    """Words that a name is made of, in lower case: those between `_`, `.`, `-` and capitals."""
    return tuple(word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", name))
