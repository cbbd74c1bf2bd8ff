"""The page docs/configuration.md, made from the schema itself: keys, types, defaults, and the text below each key.

Promises: pure but for reading the schema's source; what is not documented there raises. Does not know: the file.
"""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from agent.configuration import config
from agent.configuration.config import Config
from agent.configuration.loading import CALICO_ENVIRONMENT, TABLES, section_type

HEAD = """\
# Settings

Made by `tortie config reference`; a test holds it against the program.

Said in `/etc/tortie/agent.toml` (or the file that `--config` names), then in the files `conf.d/*.toml` beside it in
the order of their names, then in the environment (`TORTIE_` + section + `_` + key, in capitals), then by flags; the
last word wins. Lists and tables are replaced as a whole; in the environment they are `a,b` and `a=b,c=d`. An unknown
key is an error that names the nearest. `tortie config check [FILE]` checks, `tortie config show` says each value and
where it comes from, `tortie reload` takes changes into force; a bad file changes nothing. Passwords are in files of
mode 0640 or less, never in settings.
"""


def reference() -> str:
    """The whole page."""
    documented = _documented()
    parts = [HEAD]
    for section in Config.__struct_fields__:
        name = section_type(section).__name__
        about, keys = documented[name]
        parts.append(f"## [{section}]\n\n{about}\n\n| key | type | default | meaning |\n|---|---|---|---|\n")
        values = getattr(Config(), section)
        for key in values.__struct_fields__:
            default = getattr(values, key)
            parts.append(_row(key, _kind(default), default, keys[key]))
        parts.append("\n")
        for dotted, table in TABLES.items():
            if dotted.startswith(f"{section}."):
                parts.append(_table(dotted, table, *documented[table.__name__]))
    parts.append("## Calico's variables\n\nHeard too, below `TORTIE_*`:\n\n| variable | key |\n|---|---|\n")
    parts += [f"| {name} | {dotted} |\n" for name, dotted in CALICO_ENVIRONMENT.items()]
    return "".join([parts[0], "\n", *parts[1:]])


def _row(key: str, kind: str, default: Any, meaning: str) -> str:
    return f"| {key} | {kind} | `{json.dumps(default)}` | {meaning.replace('|', chr(92) + '|')} |\n"


def _table(dotted: str, table: type[Struct], about: str, keys: dict[str, str]) -> str:
    """The keys of a table that a list holds."""
    rows = [
        _row(shown, _kind(getattr(table(), name)), getattr(table(), name), keys[name])
        for name, shown in zip(table.__struct_fields__, table.__struct_encode_fields__, strict=True)
    ]
    head = f"## [[{dotted}]]\n\n{about}\n\n| key | type | default | meaning |\n|---|---|---|---|\n"
    return "".join([head, *rows, "\n"])


def _kind(value: Any) -> str:
    names = {str: "text", bool: "true or false", int: "number", float: "number", list: "list", dict: "table"}
    return names[type(value)]


def _documented() -> dict[str, tuple[str, dict[str, str]]]:
    """Struct -> its docstring, and each key's."""
    tree = ast.parse(inspect.getsource(config))
    return {
        node.name: ((ast.get_docstring(node) or "").rstrip(), dict(_keys(node)))
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }


def _keys(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for field, text in zip(node.body, node.body[1:], strict=False):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                yield name, " ".join(words.split())
            case _:
                pass
