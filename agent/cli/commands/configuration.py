"""`tortie config`: check settings, show them with their origins, print their reference.

Promises: changes nothing, and needs neither agent nor datastore. Does not know: what a setting means.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from agent.cli.command import add_command, add_group, add_output, print_answer, reported
from agent.cli.connection import settings
from agent.tables import columns

EXAMPLES = """\
examples:
  tortie config check
  tortie config check new.toml
  tortie config show
  tortie config show -o yaml
  tortie config reference
"""


def add_parsers(subparsers: Any) -> None:
    """Add this module's commands."""
    verbs = add_group(subparsers, "config", "the agent's settings: check, show, reference")
    text = "whether an agent would start with these settings"
    check = add_command(verbs, "check", text, run_config_check, EXAMPLES)
    check.add_argument("file", nargs="?", type=Path, metavar="FILE", help="instead of the one in force")
    text = "every setting with its value and where it comes from"
    show = add_command(verbs, "show", text, run_config_show, EXAMPLES)
    add_output(show)
    show.add_argument("--json", action="store_const", dest="output", const="json", help="as -o json")
    text = "every setting with its meaning, as in docs/configuration.md"
    add_command(verbs, "reference", text, run_config_reference, EXAMPLES)


def run_config_check(arguments: argparse.Namespace) -> None:
    """`tortie config check`."""
    from agent.configuration.config import ConfigError
    from agent.datastore.etcd_settings import check_files

    if arguments.file is not None:
        arguments.config = arguments.file
    found = settings(arguments)
    with reported(ConfigError):
        check_files(found.config.etcd)
    print(f"good; {len(found.origins)} settings are said, the others have their defaults")


def run_config_show(arguments: argparse.Namespace) -> None:
    """`tortie config show`."""
    import msgspec

    found = settings(arguments).settings()
    rows = [{"key": row.key, "value": msgspec.to_builtins(row.value), "origin": row.origin} for row in found]
    print_answer(rows, arguments.output, settings_table)


def settings_table(rows: list[dict[str, Any]]) -> str:
    """The settings for people; values are as JSON has them."""
    import json

    cells = [(row["key"], json.dumps(row["value"]), row["origin"]) for row in rows]
    return columns(("KEY", "VALUE", "ORIGIN"), cells)


def run_config_reference(_: argparse.Namespace) -> None:
    """`tortie config reference`."""
    from agent.configuration.reference import reference

    print(reference(), end="")
