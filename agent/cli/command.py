"""What every command is made of: its parser, how it fails, in which form it prints.

Promises: argparse alone is imported, so that `tortie --help` is quick. Does not know: any command.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

FORMS = ("table", "json", "yaml")
"""What `-o` takes where a command says nothing else."""

COMMAND_DESTS = ("command", "verb")
"""Where argparse leaves the words that name commands."""

Run = Callable[[argparse.Namespace], None]


class CommandFailed(Exception):
    """One sentence for the person at the terminal; exit code 1."""


@contextmanager
def reported(*errors: type[Exception], prefix: str = "") -> Iterator[None]:
    """The sentence of an error of these types, raised in the block, becomes that of a CommandFailed."""
    try:
        yield
    except errors as error:
        where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        raise CommandFailed(f"{prefix}{where}{reason(error)}") from error


class CommandParser(argparse.ArgumentParser):
    """A parser whose refusals name the nearest word that it knows, and are its own: with its usage, not the root's.

    The settings' flags are taken before the command and after it.
    """

    def __init__(self, **more: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **more)
        # Left out of the namespace where they are not given, so that a command does not undo what stood before it.
        settings = self.add_argument_group("settings", argument_default=argparse.SUPPRESS)
        settings.add_argument("--config", type=Path, metavar="FILE", help="default: /etc/tortie/agent.toml")
        settings.add_argument(
            "--etcd-endpoints", metavar="URL,...", help="default: settings, ETCD_ENDPOINTS, localhost"
        )

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """What argparse has left over is refused here, by the parser of the command that was meant."""
        found, left = super().parse_known_args(args, namespace)
        if left:
            word = left[0]
            if word.startswith("-"):
                self.error(f"no option {word.partition('=')[0]}{nearest(word, self._option_string_actions)}")
            self.error(f"{word!r} is one word too many")
        return found, left

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            words = [str(choice) for choice in action.choices]
            what = "command" if action.dest in COMMAND_DESTS else "choice"
            known = nearest(str(value), words) or f"; known are {', '.join(words)}"
            message = f"no {what} {str(value)!r}{known}"
            raise argparse.ArgumentError(action if what == "choice" else None, message)

    def error(self, message: str) -> NoReturn:
        """Usage, one sentence and where to read more, on standard error; exit code 2."""
        import sys

        self.print_usage(sys.stderr)
        self.exit(2, f"tortie: {message}; see: {self.prog} --help\n")


def reason(error: Exception) -> str:
    """Why a file cannot be read or written, without a number and without its name, which the sentence has already."""
    return (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean X?`, or nothing when no word is near."""
    from difflib import get_close_matches

    found = get_close_matches(word.partition("=")[0].lower(), list(known), n=1)
    return f"; did you mean {found[0]}?" if found else ""


def add_command(subparsers: Any, name: str, sentence: str, run: Run, examples: str, **more: Any) -> Any:
    """A command's own parser; `sentence` is what the list of commands says of it, `more` is for argparse."""
    parser = subparsers.add_parser(name, help=sentence, epilog=examples, **more)
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
