"""Carries out what a command asks of resources: everything is rehearsed, then written, then told.

Promises: nothing is written when any of the steps would be refused. If a write fails all the same, because somebody
else or the datastore came between, the person hears what was written before it. A dry run stops after the rehearsal.
Does not know: which command asks.
"""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from agent.cli.failure import CommandFailed
from agent.cli.kind_tables import document, name_of

if TYPE_CHECKING:  # imported when a command runs, so that `tortie --help` is quick
    from agent.datastore.resource_writer import ResourceWriter, WriteResult
    from ipam.etcd.store import Store

WRITTEN_FORMS = ("table", "yaml", "json", "name")


def add_arguments(parser: argparse.ArgumentParser, forms: Sequence[str] = WRITTEN_FORMS) -> None:
    """`--dry-run` and `-o`."""
    parser.add_argument("--dry-run", action="store_true", help="say what would change, and write nothing")
    parser.add_argument(
        "-o",
        "--output",
        choices=forms,
        default="table",
        help="how to show what was written",
    )


class Step(NamedTuple):
    """What is asked of one resource; no dataclass, because importing those would slow every `--help`."""

    kind: str
    name: str
    do: Callable[[ResourceWriter], Awaitable[WriteResult]]


class Words(NamedTuple):
    """How a command speaks of itself."""

    done: str
    """`applied`"""
    summary: Callable[[Sequence[WriteResult]], str]
    skip: type[Exception] | None = None
    """A reason to go on with the next resource; it counts as done, as in calicoctl."""


def counted(done: str) -> Callable[[Sequence[WriteResult]], str]:
    """calicoctl's last line: `Successfully applied 2 'IPPool' resource(s)`."""

    return lambda outcomes: counted_kinds(done, [outcome.kind for outcome in outcomes])


def counted_kinds(done: str, kinds: Sequence[str]) -> str:
    """The same, of kinds."""
    if not kinds:
        return "No resources specified"
    kind = f" '{kinds[0]}'" if len(set(kinds)) == 1 else ""
    return f"Successfully {done} {len(kinds)}{kind} resource(s)"


def carry_out(arguments: argparse.Namespace, steps: Sequence[Step], words: Words) -> None:
    """Do all steps, or none. Raises CommandFailed."""
    from agent.cli.connection import with_store
    from agent.clock import SystemClock
    from agent.datastore.resource_writer import ResourceWriter
    from ipam.etcd.dry_run_store import DryRunStore

    async def work(store: Store) -> None:
        outcomes = await _rehearsed(ResourceWriter(DryRunStore(store), SystemClock()), steps, words)
        if not arguments.dry_run:
            outcomes = await _done(ResourceWriter(store, SystemClock()), steps, words)
        _tell(arguments, outcomes, words)

    with_store(arguments, work)


async def _rehearsed(admission: ResourceWriter, steps: Sequence[Step], words: Words) -> list[WriteResult]:
    """What would come of it. Raises CommandFailed with every reason against it, StoreError."""
    outcomes: list[WriteResult] = []
    faults: list[str] = []
    for step in steps:
        try:
            outcomes.append(await _one(admission, step, words))
        except CommandFailed as error:
            faults.append(str(error))
    if faults:
        raise CommandFailed("\n".join(faults))
    return outcomes


async def _done(admission: ResourceWriter, steps: Sequence[Step], words: Words) -> list[WriteResult]:
    """What came of it. Raises CommandFailed that says how far it went."""
    from ipam.failures import StoreError

    outcomes: list[WriteResult] = []
    for number, step in enumerate(steps):
        try:
            outcomes.append(await _one(admission, step, words))
        except (CommandFailed, StoreError) as error:
            sentence = f"Partial success: {words.done} the first {number} out of {len(steps)} resources:\n"
            raise CommandFailed(f"{sentence if number else ''}Hit error: {error}") from error
    return outcomes


async def _one(admission: ResourceWriter, step: Step, words: Words) -> WriteResult:
    """One step. Raises CommandFailed, StoreError."""
    from agent.datastore.resource_writer import Effect, Exists, NotFound, WriteResult
    from agent.datastore.resources.documents import InvalidDocument
    from agent.datastore.storage_layout import Damaged
    from ipam.failures import IpamError, StoreError

    try:
        return await step.do(admission)
    except StoreError:
        raise
    except (InvalidDocument, Exists, NotFound, Damaged, IpamError) as error:
        if words.skip is not None and isinstance(error, words.skip):
            return WriteResult(step.kind, step.name, Effect.SKIPPED)
        raise CommandFailed(str(error)) from error


def _tell(arguments: argparse.Namespace, outcomes: Sequence[WriteResult], words: Words) -> None:
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
    print("dry run: nothing was written" if arguments.dry_run else words.summary(outcomes))
