"""`tortie`: parses the command line, runs one command, makes one sentence of every expected fault and exit code 1.

Promises: a command's modules are imported only when it runs, so `--help` is quick. Exit codes are those of EPILOG.
Does not know: what commands do.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from agent.cli.command import CommandFailed, CommandParser, reason

COMMANDS = (
    "agent.cli.commands.get",
    "agent.cli.commands.resources",
    "agent.cli.commands.patch",
    "agent.cli.commands.node",
    "agent.cli.commands.routes",
    "agent.cli.commands.bgp",
    "agent.cli.commands.ipam",
    "agent.cli.commands.cni",
    "agent.cli.commands.lab",
    "agent.cli.commands.service",
    "agent.cli.commands.configuration",
)
"""Modules with `add_parsers(subparsers)`; each imports what it needs only when its command runs."""

EPILOG = """\
examples:
  tortie lab up                      three nodes on this machine, real etcd, real agents
  tortie lab pod add a b c           pods, by real CNI calls
  tortie lab ping                    every pod pings every other
  tortie apply -f pool.json          create or update resources
  tortie get ippools -o yaml
  tortie node status                 what this node's agent sees

exit codes:
  0    done
  1    refused or failed, with a sentence on standard error; `ipam check` also when it found something,
       and `node status` when there is a trouble
  2    the command line itself is wrong
  130  interrupted
`lab exec` ends as the command that it runs. Colour and progress are for terminals; NO_COLOR disables both.
"""


class _Version(argparse.Action):
    """`--version`: this program's, which is looked up only when somebody asks."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"tortie {version('tortie')}")
        parser.exit()


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    found = CommandParser(
        prog="tortie",
        description="Pod routes for Linux nodes: IPAM in etcd, CNI, netlink and BGP.",
        epilog=EPILOG,
    )
    found.set_defaults(config=None, etcd_endpoints=None)
    found.add_argument("--version", action=_Version, nargs=0, help="say which version this is")
    subparsers = found.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in COMMANDS:
        importlib.import_module(module).add_parsers(subparsers)
    return found


def main(words: Sequence[str] | None = None) -> None:
    """The entry point; `words` in place of the process's own."""
    if sys.stdout is None:  # a descriptor that is closed would become that of the next socket
        sys.exit("tortie: standard output is closed: give it a file, or /dev/null")
    arguments = parser().parse_args(words)
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except CommandFailed as error:
        sys.exit("\n".join(f"tortie: {line}" for line in str(error).splitlines()))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os._exit(0)  # the reader (head, less) has gone; a traceback would reach nobody
    except OSError as error:
        failed_to_print(error)


def failed_to_print(error: OSError) -> NoReturn:
    """The end of a command that could not write what it has to say, or read what it was given; exit code 1."""
    where = error.filename or "the output cannot be written"
    with suppress(OSError):
        os.write(2, f"tortie: {where}: {reason(error)}\n".encode())
    os._exit(1)  # the interpreter would try to write what is left once more, and say so with a traceback


if __name__ == "__main__":
    main()
