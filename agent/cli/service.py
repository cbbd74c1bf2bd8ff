"""`tortie reload`: have the running agent read its settings again."""

from __future__ import annotations

import argparse
from typing import Any

RELOAD_EXAMPLES = """\
examples:
  tortie reload
  systemctl reload tortie-agent

Wrong settings are refused with one sentence, and those in force stay. Changed ones take effect by a restart in place:
routes, pods and the peers' routes to this node stay. TORTIE_* variables come from the service's environment: they
change with systemctl restart.
"""
BACK_SECONDS = 20.0
POLL_SECONDS = 0.1


def add_parsers(subparsers: Any) -> None:
    """Add this module's commands."""
    reload = subparsers.add_parser(
        "reload",
        help="check the settings anew, and use them",
        epilog=RELOAD_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    reload.set_defaults(run=run_reload)


def run_reload(arguments: argparse.Namespace) -> None:
    """`tortie reload`."""
    from agent.cli.connection import asked

    started = asked(arguments, "status")["started"]
    changed = asked(arguments, "reload")["changed"]
    if not changed:
        print("nothing differs from the settings in force")
        return
    _wait_for_another_life(arguments, started)
    print(f"in force now: {', '.join(changed)}")


def _wait_for_another_life(arguments: argparse.Namespace, started: str) -> None:
    """Until the agent serves with its new settings. Raises CommandFailed."""
    import time

    from agent.cli.connection import asked
    from agent.cli.failure import CommandFailed

    deadline = time.monotonic() + BACK_SECONDS
    while True:
        try:
            if asked(arguments, "status")["started"] != started:
                return
            why = "it still runs with the old settings"
        except CommandFailed as failure:
            why = str(failure)
        if time.monotonic() > deadline:
            raise CommandFailed(f"the agent is not back after {BACK_SECONDS:g} s: {why}")
        time.sleep(POLL_SECONDS)
