"""No command gives away what a living node uses, unless it is told to.

Promises: one rule for all commands: what shows that a node lives is said, and nothing was done; a doubt is said, and
the command goes on.
Does not know: what shows it (agent/node/signs_of_life.py).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from agent.cli.command import CommandFailed
from agent.cli.connection import ask_agent, config, with_store

if TYPE_CHECKING:  # imported when a command runs, so that `tortie --help` is quick
    from agent.node.signs_of_life import Signs
    from ipam.etcd.store import Store

FORCE_HELP = "although a node seems to live: its pods lose their addresses"


def require_gone(arguments: argparse.Namespace, names: Iterable[str]) -> None:
    """Raises CommandFailed for nodes of which something shows that they live, unless `--force` was given."""
    from ipaddress import ip_address

    from agent.node.signs_of_life import signs_of_life
    from ipam.model import NodeName

    nodes = [NodeName(name) for name in names]
    if arguments.force or not nodes:
        return
    status = _agents_status(arguments)
    up = [ip_address(peer["address"]) for peer in status["peers"] if peer["state"] == "Established"]

    async def work(store: Store) -> list[Signs]:
        return [await signs_of_life(store, node, up) for node in nodes]

    refused = []
    for node, signs in zip(nodes, with_store(arguments, work), strict=True):
        if status["node"] == node:
            signs.of_life.append("its agent runs on this machine")
        if signs.of_life:
            why = "; ".join(signs.of_life)
            refused.append(f"node {node} lives: {why}; stop its agent first, or give it up with --force")
        for doubt in signs.doubts:
            print(f"tortie: node {node}: {doubt}; pods there lose their addresses", file=sys.stderr)
    if refused:
        raise CommandFailed("\n".join(refused))


def _agents_status(arguments: argparse.Namespace) -> dict[str, Any]:
    """What this machine's agent says; without one that nobody is a peer."""
    nothing: dict[str, Any] = {"node": None, "peers": []}
    config(arguments)  # wrong settings are said, not passed over
    try:
        status: dict[str, Any] = ask_agent(arguments, "status")
    except CommandFailed:
        return nothing
    return status
