"""Carries out what a command asks of resources: a dry run of everything, then the writes, then the report.

Promises: nothing is written when any of the changes would be refused. If a write fails all the same, because somebody
else or the datastore came between, the error says what was written before it. With --dry-run the writes are left out.
Does not know: which command asks.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from agent.cli.command import CommandFailed
from agent.cli.connection import with_store
from agent.cli.kind_tables import document, name_of

if TYPE_CHECKING:  # imported when a command runs, so that `tortie --help` is quick
    from agent.datastore.writing.resource_writer import ResourceWriter, WriteResult
    from ipam.etcd.store import Store

WRITTEN_FORMS = ("table", "yaml", "json", "name")


def add_change_arguments(parser: argparse.ArgumentParser, forms: Sequence[str] = WRITTEN_FORMS) -> None:
    """`--dry-run` and `-o`."""
    parser.add_argument("--dry-run", action="store_true", help="say what would change, and write nothing")
    parser.add_argument("-o", "--output", choices=forms, default="table", help="how to show what was written")


class Change(NamedTuple):
    """What is asked of one resource; no dataclass, because importing those would slow every `--help`."""

    kind: str
    name: str
    do: Callable[[ResourceWriter], Awaitable[WriteResult]]


class Wording(NamedTuple):
    """How a command speaks of itself."""

    done: str
    """`applied`"""
    skip: type[Exception] | None = None
    """A reason to go on with the next resource; it counts as done, as in calicoctl."""
    summary: Callable[[], str] | None = None
    """The last line, if it is not calicoctl's count of resources."""


def counted(done: str, kinds: Sequence[str]) -> str:
    """calicoctl's last line about resources of these kinds: `Successfully applied 2 'IPPool' resource(s)`."""
    if not kinds:
        return "No resources specified"
    kind = f" '{kinds[0]}'" if len(set(kinds)) == 1 else ""
    return f"Successfully {done} {len(kinds)}{kind} resource(s)"


def carry_out(arguments: argparse.Namespace, changes: Sequence[Change], wording: Wording) -> None:
    """Do all changes, or none. Raises CommandFailed."""
    from agent.clock import SystemClock
    from agent.datastore.writing.resource_writer import ResourceWriter
    from ipam.etcd.dry_run_store import DryRunStore

    async def work(store: Store) -> None:
        outcomes = await _dry_run(ResourceWriter(DryRunStore(store), SystemClock()), changes, wording)
        if not arguments.dry_run:
            outcomes = await _done(ResourceWriter(store, SystemClock()), changes, wording)
        _report(arguments, outcomes, wording)

    with_store(arguments, work)


async def _dry_run(writer: ResourceWriter, changes: Sequence[Change], wording: Wording) -> list[WriteResult]:
    """What a dry run of all changes says. Raises CommandFailed with every reason against them, StoreError."""
    outcomes: list[WriteResult] = []
    faults: list[str] = []
    for change in changes:
        try:
            outcomes.append(await _one(writer, change, wording))
        except CommandFailed as error:
            faults.append(str(error))
    if faults:
        raise CommandFailed("\n".join(faults))
    return outcomes


async def _done(writer: ResourceWriter, changes: Sequence[Change], wording: Wording) -> list[WriteResult]:
    """The outcomes of all changes, written one after the other. Raises CommandFailed that says how far it went."""
    from ipam.failures import StoreError

    outcomes: list[WriteResult] = []
    for number, change in enumerate(changes):
        try:
            outcomes.append(await _one(writer, change, wording))
        except (CommandFailed, StoreError) as error:
            sentence = (
                f"Partial success: {wording.done} the first {number} out of {len(changes)} resources:\n"
            )
            raise CommandFailed(f"{sentence if number else ''}Hit error: {error}") from error
    return outcomes


async def _one(writer: ResourceWriter, change: Change, wording: Wording) -> WriteResult:
    """The outcome of one change. Raises CommandFailed, StoreError."""
    from agent.datastore.resources.documents import InvalidDocument
    from agent.datastore.writing.resource_writer import Effect, Exists, NotFound, WriteResult
    from ipam.failures import IpamError, StoreError

    try:
        return await change.do(writer)
    except StoreError:
        raise
    except (InvalidDocument, Exists, NotFound, IpamError) as error:
        if wording.skip is not None and isinstance(error, wording.skip):
            return WriteResult(change.kind, change.name, Effect.SKIPPED)
        raise CommandFailed(str(error)) from error


def warn(sentence: str) -> None:
    """Say something beside the report, which scripts may read."""
    print(f"tortie: warning: {sentence}", file=sys.stderr)


def _report(arguments: argparse.Namespace, outcomes: Sequence[WriteResult], wording: Wording) -> None:
    for outcome in outcomes:
        for sentence in outcome.warnings:
            warn(sentence)
    if arguments.output == "name":
        print("\n".join(name_of(outcome.kind, outcome.name) for outcome in outcomes))
        return
    if arguments.output in ("yaml", "json"):
        resources = [outcome.resource for outcome in outcomes if outcome.resource is not None]
        print(document("", resources, arguments.output, single=True))
        return
    for outcome in outcomes:
        print(
            f"{outcome.kind} {outcome.name} {outcome.effect.value}{' (dry run)' if arguments.dry_run else ''}"
        )
        for sentence in outcome.changed if arguments.dry_run and outcome.effect.value == "configured" else ():
            print(f"  {sentence}")
        for sentence in outcome.notes:
            print(f"  {sentence}")
    if arguments.dry_run:
        print("dry run: nothing was written")
    elif wording.summary is not None:
        print(wording.summary())
    else:
        print(counted(wording.done, [outcome.kind for outcome in outcomes]))
