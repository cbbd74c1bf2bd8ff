"""What every command is made of: its parser, how it fails, in which form it prints.

Promises: argparse alone is imported, so that `tortie --help` is quick. Does not know: any command.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

FORMS = ("table", "json", "yaml")
"""What `-o` takes where a command says nothing else."""

Run = Callable[[argparse.Namespace], None]


class CommandFailed(Exception):
    """One sentence for the person at the terminal; exit code 1."""


@contextmanager
def reported(*errors: type[Exception], prefix: str = "") -> Iterator[None]:
    """The sentence of an error of these types, raised in the block, becomes that of a CommandFailed."""
    try:
        yield
    except errors as error:
        raise CommandFailed(f"{prefix}{error}") from error


def add_command(subparsers: Any, name: str, sentence: str, run: Run, examples: str, **more: Any) -> Any:
    """A command's own parser; `sentence` is what the list of commands says of it, `more` is for argparse."""
    parser = subparsers.add_parser(
        name, help=sentence, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter, **more
    )
    parser.set_defaults(run=run)
    return parser


def add_group(subparsers: Any, name: str, sentence: str, metavar: str = "VERB") -> Any:
    """A command that has commands of its own; the subparsers to add these to."""
    group = subparsers.add_parser(name, help=sentence)
    return group.add_subparsers(dest="verb", metavar=metavar, required=True)


def add_output(parser: Any) -> None:
    """`-o table|json|yaml`."""
    parser.add_argument("-o", "--output", choices=FORMS, default="table")


def print_answer(value: Any, output: str, table: Callable[[Any], str]) -> None:
    """Print a value in the form that `-o` names; `table` makes the text for people."""
    from agent.tables import data

    print(table(value) if output == "table" else data(value, output))


def network_named(text: str) -> str:
    """The text of PREFIX, a network or an address. Raises CommandFailed."""
    from ipaddress import ip_network

    with reported(ValueError, prefix="PREFIX: "):
        ip_network(text)
    return text


def moment(stamp: str | None) -> str:
    """The agent's stamp (ISO 8601) for a table: without its fraction; empty for None."""
    return (stamp or "")[:19].replace("T", " ")
