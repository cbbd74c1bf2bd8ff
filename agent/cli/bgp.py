"""`tortie drain` and `tortie undrain`: leave the BGP peers, and be one again."""

from __future__ import annotations

import argparse
from typing import Any

DRAIN_EXAMPLES = """\
examples:
  tortie drain --text "new kernel, back at 14:00"
  tortie undrain

A drained node withdraws all it announced and ends its sessions with the text (RFC 9003). It stays drained when the
agent or the machine restarts. Its own routes to other nodes stay.
"""
LEFT_SECONDS = 10.0
POLL_SECONDS = 0.05


def add_parsers(subparsers: Any) -> None:
    """Add this module's commands."""
    raw = argparse.RawDescriptionHelpFormatter
    drain = subparsers.add_parser(
        "drain", help="leave all BGP peers until undrain", epilog=DRAIN_EXAMPLES, formatter_class=raw
    )
    drain.add_argument("--text", default="", help="what the peers' operators read, up to 255 bytes")
    drain.set_defaults(run=run_drain)
    undrain = subparsers.add_parser(
        "undrain", help="peer with everybody again", epilog=DRAIN_EXAMPLES, formatter_class=raw
    )
    undrain.set_defaults(run=run_undrain)


def asked(arguments: argparse.Namespace, question: str) -> Any:
    """The agent's answer. Raises CommandFailed."""
    from agent import control
    from agent.cli.connection import config
    from agent.cli.failure import CommandFailed

    try:
        answer = control.ask(config(arguments).control_socket, question)
    except control.NotRunning as error:
        raise CommandFailed(str(error)) from error
    if isinstance(answer, dict) and "error" in answer:
        raise CommandFailed(answer["error"])
    return answer


def run_drain(arguments: argparse.Namespace) -> None:
    """`tortie drain`."""
    import time

    from agent.cli.failure import CommandFailed

    asked(arguments, f"drain {' '.join(arguments.text.split())}")
    deadline = time.monotonic() + LEFT_SECONDS
    while not (status := asked(arguments, "status"))["has_left"]:
        if time.monotonic() > deadline:
            raise CommandFailed(f"{status['node']} is still leaving its peers; see: tortie node status")
        time.sleep(POLL_SECONDS)
    print(f"{status['node']} has left its peers; tortie undrain ends it")


def run_undrain(arguments: argparse.Namespace) -> None:
    """`tortie undrain`."""
    asked(arguments, "undrain")
    print(f"{asked(arguments, 'status')['node']} peers again")
