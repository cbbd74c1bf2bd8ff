"""The files that `-f` names: every resource in them, or every fault of every file at once.

Promises: pure but for reading files. Does not know: what is done with the resources.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from agent.cli.command import CommandFailed, reason
from agent.cli.resource_changes import warn

if TYPE_CHECKING:  # imported when a command runs, so that `tortie --help` is quick
    from agent.datastore.resources.documents import ParsedResource

SUFFIXES = (".yaml", ".yml", ".json")
STANDARD_INPUT = "standard input"


def add_file_arguments(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """`-f` and `-R`."""
    parser.add_argument(
        "-f",
        "--filename",
        action="append",
        required=required,
        metavar="FILE",
        help="YAML or JSON; - is standard input; of a directory its *.yaml, *.yml and *.json, by name",
    )
    parser.add_argument("-R", "--recursive", action="store_true", help="directories inside a directory too")
    parser.add_argument("--skip-empty", action="store_true", help="files and directories may hold nothing")
    parser.add_argument(
        "--skip-other-kinds", action="store_true", help="pass over documents of other programs, and name each"
    )


def read_files(arguments: argparse.Namespace) -> list[ParsedResource]:
    """All resources of all files; what is passed over by a flag is said. Raises CommandFailed."""
    from agent.datastore.resources.documents import InvalidDocument, read

    found: list[ParsedResource] = []
    faults: list[str] = []
    passed_over: list[str] | None = [] if arguments.skip_other_kinds else None
    for name in _file_names(arguments, faults):
        try:
            text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
            source = STANDARD_INPUT if name == "-" else name
            found += read(text, source, may_be_empty=arguments.skip_empty, passed_over=passed_over)
        except (OSError, UnicodeDecodeError) as error:
            faults.append(f"{name}: cannot be read: {reason(error)}")
        except InvalidDocument as error:
            faults += error.sentences
    if faults:
        raise CommandFailed("\n".join(faults))
    for sentence in passed_over or ():
        warn(sentence)
    return found


def _file_names(arguments: argparse.Namespace, faults: list[str]) -> Iterator[str]:
    """Files, and what directories hold."""
    for name in arguments.filename:
        path = Path(name)
        if "://" in name:
            faults.append(f"{name}: a URL is not fetched; do it yourself: curl -fsS {name} | tortie … -f -")
            continue
        if name == "-" or not path.is_dir():
            yield name
            continue
        inside = path.rglob("*") if arguments.recursive else path.iterdir()
        files = sorted(str(file) for file in inside if file.suffix in SUFFIXES and file.is_file())
        if not files and not arguments.skip_empty:
            faults.append(f"{name}: holds no {', '.join(f'*{suffix}' for suffix in SUFFIXES)}")
        yield from files
