"""`tortie config`: check settings, show them with their origins, print their reference."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

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
    config = subparsers.add_parser("config", help="the agent's settings: check, show, reference")
    verbs = config.add_subparsers(dest="verb", metavar="VERB", required=True)
    for word, run, text in (
        ("check", run_check, "whether an agent would start with these settings"),
        ("show", run_show, "every setting with its value and where it comes from"),
        ("reference", run_reference, "every setting with its meaning, as in docs/configuration.md"),
    ):
        verb = verbs.add_parser(
            word, help=text, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        verb.set_defaults(run=run)
        if word == "check":
            verb.add_argument(
                "file", nargs="?", type=Path, metavar="FILE", help="instead of the one in force"
            )
        if word == "show":
            verb.add_argument("-o", "--output", choices=("table", "json", "yaml"), default="table")
            verb.add_argument("--json", action="store_const", dest="output", const="json", help="as -o json")


def run_check(arguments: argparse.Namespace) -> None:
    """`tortie config check`."""
    from agent.cli.connection import settings
    from agent.cli.failure import CommandFailed
    from agent.configuration.config import ConfigError
    from agent.datastore.etcd_settings import check_files

    if arguments.file is not None:
        arguments.config = arguments.file
    found = settings(arguments)
    try:
        check_files(found.config.etcd)
    except ConfigError as error:
        raise CommandFailed(str(error)) from error
    print(f"good; {len(found.origins)} settings are said, the others have their defaults")


def run_show(arguments: argparse.Namespace) -> None:
    """`tortie config show`."""
    import json

    from agent.cli.connection import settings
    from agent.tables import columns, data

    rows = list(settings(arguments).settings())
    if arguments.output != "table":
        shown = [{"key": row.key, "value": row.value, "origin": row.origin} for row in rows]
        print(data(shown, arguments.output))
    else:
        print(
            columns(
                ("KEY", "VALUE", "ORIGIN"), [(row.key, json.dumps(row.value), row.origin) for row in rows]
            )
        )


def run_reference(_: argparse.Namespace) -> None:
    """`tortie config reference`."""
    from agent.configuration.reference import reference

    print(reference(), end="")
