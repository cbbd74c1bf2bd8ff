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
from pathlib import Path

from agent.cli.command import CommandFailed

COMMANDS = (
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


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    found = argparse.ArgumentParser(
        prog="tortie",
        description="Pod routes for Linux nodes: IPAM in etcd, CNI, netlink and BGP.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument(
        "--config", type=Path, metavar="FILE", help="settings (default: /etc/tortie/agent.toml)"
    )
    found.add_argument(
        "--etcd-endpoints", metavar="URL,...", help="default: settings, ETCD_ENDPOINTS, localhost"
    )
    subparsers = found.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in COMMANDS:
        importlib.import_module(module).add_parsers(subparsers)
    return found


def main(words: Sequence[str] | None = None) -> None:
    """The entry point; `words` in place of the process's own."""
    arguments = parser().parse_args(words)
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except CommandFailed as error:
        sys.exit(f"tortie: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os._exit(0)  # the reader (head, less) has gone; a traceback would reach nobody


if __name__ == "__main__":
    main()
