"""`tortie node reclaim`: all that a dead node had, given back by hand, with a file that undoes it.

Promises: a dry run writes nothing; a node that seems to live keeps all, unless it is told to.
Does not know: what a node has.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from agent.cli.command import CommandFailed, reported
from agent.cli.connection import with_store
from agent.cli.living_nodes import require_gone

if TYPE_CHECKING:
    from agent.datastore.writing.node_reclaim import Reclaimed
    from ipam.etcd.store import Store

EXAMPLES = """\
examples:
  tortie node reclaim node9 --dry-run
  tortie node reclaim node9 --undo-file node9.json
  tortie node reclaim --undo node9.json

For a node that is gone for good: its addresses, claims, endpoints, tunnels, settings and its Node resource go, as by
`tortie delete node`, and what they were is written into an undo file first. An undo puts all of it back, or nothing, if
somebody has written any of it since. Refused while something shows that the node lives.
"""


def run_reclaim(arguments: argparse.Namespace) -> None:
    """`tortie node reclaim`."""
    from ipam.failures import IpamError

    if bool(arguments.name) == bool(arguments.undo):
        raise CommandFailed("name either a node, or --undo FILE")
    with reported(IpamError, OSError):
        if arguments.undo:
            print(f"{_undo(arguments)} keys are put back")
        else:
            _reclaim(arguments)


def _reclaim(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    from agent.clock import SystemClock
    from agent.datastore.writing.node_reclaim import preview, reclaim
    from ipam.model import NodeName

    clock, node = SystemClock(), NodeName(arguments.name)
    if not arguments.dry_run:
        require_gone(arguments, [node])
    named = arguments.undo_file or f"tortie-reclaimed-{node}-{clock.wall():%Y%m%dT%H%M%S}.json"
    file = Path(named.replace("/", "-") if arguments.undo_file is None else named)
    if not arguments.dry_run and file.exists():
        raise CommandFailed(f"{file}: is there already; name a new file")

    async def work(store: Store) -> Reclaimed:
        if arguments.dry_run:
            return await preview(store, node, clock)
        return await reclaim(store, node, clock, file)

    done = with_store(arguments, work)
    if done.removal.is_empty and not done.has_record:
        if not arguments.dry_run:
            file.unlink(missing_ok=True)
        raise CommandFailed(f"there is nothing of a node {node}")
    for sentence in done.removal.sentences:
        print(sentence)
    if done.has_record:
        print("released: its Node resource")
    print("dry run: nothing was written" if arguments.dry_run else f"undo: tortie node reclaim --undo {file}")


def _undo(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from agent.datastore.writing.undo_journal import MOST_UNDO_BYTES, put_back, read
    from agent.foreign_files import read_file

    noted = read(read_file(Path(arguments.undo), MOST_UNDO_BYTES))
    return with_store(arguments, lambda store: put_back(store, noted))
