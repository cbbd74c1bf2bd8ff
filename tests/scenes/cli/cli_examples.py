"""Every example that any help shows, and where it can be run for real."""

from __future__ import annotations

import argparse
import io
import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass
from enum import Enum

from agent.cli.main import parser


class Place(Enum):
    """Where an example is run."""

    DATASTORE = "test_examples.py: an etcd, and files beside the shell"
    LAB = "tests/lab/test_examples.py: labs of the test's own names"
    NODE = "tests/lab/test_examples.py: inside the first node of a lab"
    MACHINE = "tests/systemd/test_examples.py: a machine with systemd that is thrown away"
    ELSEWHERE = "see ELSEWHERE"


DATASTORE_COMMANDS = frozenset(
    (
        "apply",
        "config",
        "create",
        "datastore",
        "delete",
        "get",
        "ipam",
        "label",
        "patch",
        "replace",
        "validate",
    )
)
MACHINE_COMMANDS = frozenset(("cni", "install", "reload", "uninstall"))
ELSEWHERE = {
    "tortie lab demo": "tests/lab/test_command_line.py runs it, and counts its pings",
    "tortie node return-to-calico --yes": "tests/lab/beside/test_migration.py, with the agent stopped",
    "tortie node reclaim node9 --dry-run": "tests/agent/cli/commands/test_reclaim.py, with a node that is gone",
    "tortie node reclaim node9 --undo-file node9.json": "tests/agent/cli/commands/test_reclaim.py",
    "tortie node reclaim --undo node9.json": "tests/agent/cli/commands/test_reclaim.py",
    "tortie node takeover --from node2": "tests/lab/node/test_node_identity.py, with a machine that was renamed",
    "tortie node remove-calico --undo calico-undo.txt": "tests/lab/test_calicos_remains.py, with rules to put back",
}
"""Example -> the reason why no test of examples runs it."""


@dataclass(frozen=True, slots=True)
class Example:
    """One line of a help text."""

    command: str
    """Whose help: `ipam show`; empty for that of the whole."""
    line: str

    @property
    def place(self) -> Place:
        """By its first command."""
        if self.line in ELSEWHERE:
            return Place.ELSEWHERE
        words = self.line.split()
        if words[0] != "tortie":
            return Place.MACHINE
        if words[1] == "lab":
            return Place.LAB
        if words[1] in DATASTORE_COMMANDS:
            return Place.DATASTORE
        return Place.MACHINE if words[1] in MACHINE_COMMANDS else Place.NODE


def commands(
    of: argparse.ArgumentParser | None = None, words: tuple[str, ...] = ()
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command that does something: `ipam show` and its parser."""
    of = of or parser()
    below = [action for action in of._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield " ".join(words), of
    for action in below:
        for name, each in action.choices.items():
            yield from commands(each, (*words, name))


def lines(help_text: str | None) -> Iterator[str]:
    """The examples of an epilog; a remark stands two spaces behind its example."""
    indented = False
    for line in (help_text or "").splitlines():
        if line == "examples:":
            indented = True
        elif not line.startswith("  "):
            indented = False
        elif indented:
            yield re.split(r"\s{2,}", line.strip())[0]


def examples() -> list[Example]:
    """All, each once."""
    whole = parser()
    found = [Example("", line) for line in lines(whole.epilog)]
    for command, each in commands(whole):
        found += [Example(command, line) for line in lines(each.epilog)]
    return list({example.line: example for example in reversed(found)}.values())[::-1]


def at(place: Place) -> list[str]:
    """The examples to be run there, in the order of the help."""
    return [example.line for example in examples() if example.place is place]


def invocations(text: str) -> list[list[str]]:
    """The words of each tortie that a line of shell starts, those inside `lab exec` too."""
    found = []
    for part in re.split(r"\s(?:\||;|&&)\s?|;\s", text):
        words = shlex.split(part, comments=True)
        while words and words[0] in ("sudo", ".venv/bin/tortie"):
            words = ["tortie", *words[1:]] if words[0] == ".venv/bin/tortie" else words[1:]
            if words[0] == "tortie":
                break
        if words and words[0] == "tortie":
            found.append(words[1:])
            if words[1:3] == ["lab", "exec"] and "--" in words:
                found += invocations(shlex.join(words[words.index("--") + 1 :]))
    return found


def refused(words: list[str]) -> str:
    """What the real parser says against the words; nothing when it takes them."""
    err = io.StringIO()
    try:
        with redirect_stderr(err):
            parser().parse_args(words)
    except SystemExit:
        return err.getvalue()
    return ""
