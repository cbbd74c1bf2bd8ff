"""`tortie patch`, `tortie label` and `tortie datastore migrate`: changes of a stored resource, without a file.

Promises: all is refused, or all is written, with the rules of `tortie replace`; a lock is written by one guarded
transaction.
Does not know: the kinds and their fields.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from agent.cli import resource_changes
from agent.cli.command import CommandFailed, add_command, add_group, reported
from agent.cli.connection import with_store
from agent.cli.kind_tables import NAMES, kind_named

if TYPE_CHECKING:  # imported when a command runs, so that `tortie --help` is quick
    from agent.datastore.resources.schema import Document
    from ipam.etcd.store import Store

    Edit = Callable[[Document], Document]

PATCH_EXAMPLES = """\
examples:
  tortie patch ippool default-ipv4-ippool -p '{"spec": {"natOutgoing": true}}'
  tortie patch node node1 -p 'spec: {bgp: {asNumber: 64513}}' --dry-run
  tortie patch bgppeer tor -p '{"spec": {"password": null}}'

The patch is a merge patch (RFC 7386), in JSON or YAML: fields replace fields, null removes one, a list replaces a list.
"""
LABEL_EXAMPLES = """\
examples:
  tortie label node node1 rack=r1
  tortie label node node1 rack=r2 --overwrite
  tortie label node node1 rack-
"""
LOCK_EXAMPLES = """\
examples:
  tortie datastore migrate lock
  tortie datastore migrate unlock

While the datastore is locked nodes and commands write nothing: no pod is attached, a DEL is written down and carried
out after the unlocking, routes and BGP go on. calicoctl has the same commands, and each may undo the other's.
"""
MOST_LOCK_WRITES = 10
"""How often another writer of ClusterInformation may come first."""


def add_parsers(subparsers: Any) -> None:
    """Add this module's commands."""
    patch = add_command(subparsers, "patch", "change fields of a resource", run_patch, PATCH_EXAMPLES)
    text = "set and remove labels of a resource"
    label = add_command(subparsers, "label", text, run_label, LABEL_EXAMPLES)
    for parser in (patch, label):
        parser.add_argument("kind", metavar="KIND", help=NAMES)
        parser.add_argument("name", metavar="NAME")
    patch.add_argument("-p", "--patch", required=True, metavar="PATCH", help="JSON or YAML")
    label.add_argument("labels", nargs="+", metavar="KEY=VALUE|KEY-")
    label.add_argument("--overwrite", action="store_true", help="give labels that are there another value")
    label.add_argument("--remove", action="store_true", help="remove each KEY, as KEY- does")
    for parser in (patch, label):
        resource_changes.add_change_arguments(parser)
    datastore = add_group(subparsers, "datastore", "the datastore as a whole", metavar="COMMAND")
    migrate = add_group(datastore, "migrate", "lock and unlock it, as calicoctl does")
    add_command(migrate, "lock", "have nobody write to the datastore", run_lock, LOCK_EXAMPLES)
    add_command(migrate, "unlock", "have everybody write again", run_unlock, LOCK_EXAMPLES)


def run_patch(arguments: argparse.Namespace) -> None:
    """`tortie patch`."""
    from agent.datastore.resources.schema import merged

    kind, patch = kind_named(arguments.kind), _patch(arguments.patch)
    wording = resource_changes.Wording("patched", summary=lambda: f"Successfully patched 1 '{kind}' resource")
    _edit_stored(arguments, kind, lambda document: merged(document, patch), "-p", wording)


def _edit_stored(
    arguments: argparse.Namespace, kind: str, edit: Edit, source: str, wording: resource_changes.Wording
) -> None:
    """Write what `edit` makes of the stored document; `source` is what errors name. Raises CommandFailed."""
    name = arguments.name
    change = resource_changes.Change(kind, name, lambda writer: writer.edit(kind, name, edit, source))
    resource_changes.carry_out(arguments, [change], wording)


def _patch(text: str) -> Document:
    from agent.datastore.resources.yaml_lines import NotReadable, parse_documents

    with reported(NotReadable, prefix="-p: "):
        found = list(parse_documents(text))
    if len(found) != 1 or not isinstance(found[0].value, dict):
        raise CommandFailed('-p: expected one object, such as \'{"spec": {"natOutgoing": true}}\'')
    patch: Document = found[0].value
    return patch


def run_label(arguments: argparse.Namespace) -> None:
    """`tortie label`."""
    kind = kind_named(arguments.kind)
    wanted = _wanted(arguments.labels, remove=arguments.remove)
    sentences: list[str] = []

    def edit(document: Document) -> Document:
        sentences.clear()
        labels = dict(document["metadata"].get("labels") or {})
        for key, value in wanted.items():
            sentences.append(_edit(labels, key, value, arguments))
        metadata = {**document["metadata"], "labels": labels}
        if not labels:
            del metadata["labels"]
        return {**document, "metadata": metadata}

    wording = resource_changes.Wording("labelled", summary=lambda: "\n".join(sentences))
    _edit_stored(arguments, kind, edit, "label", wording)


def _wanted(words: Sequence[str], *, remove: bool) -> dict[str, str | None]:
    """Key -> value, or None to remove it. Raises CommandFailed."""
    found: dict[str, str | None] = {}
    for word in words:
        key, has_value, value = word.partition("=")
        if remove and not has_value:
            found[key.removesuffix("-")] = None
        elif not has_value and key.endswith("-"):
            found[key[:-1]] = None
        elif has_value and not remove:
            found[key] = value
        else:
            raise CommandFailed(f"label {word!r}: write KEY=VALUE to set a label and KEY- to remove one")
    return found


def _edit(labels: dict[str, str], key: str, value: str | None, arguments: argparse.Namespace) -> str:
    """One label, and calicoctl's sentence about it. Raises CommandFailed."""
    whose = f"{arguments.kind} {arguments.name}"
    if value is None:
        if labels.pop(key, None) is None:
            raise CommandFailed(f"cannot remove label of {whose}, key {key} does not exist")
        return f"Successfully removed label {key} from {whose}"
    before = labels.get(key)
    if before is not None and before != value and not arguments.overwrite:
        raise CommandFailed(
            f"failed to update label of {whose}, key {key} is already present ({before}); "
            "use --overwrite to set a new value"
        )
    labels[key] = value
    return f"Successfully {'set' if before is None else 'updated'} label {key} on {whose}"


def run_lock(arguments: argparse.Namespace) -> None:
    """`tortie datastore migrate lock`."""
    _set_ready(arguments, ready=False)
    print("Datastore locked.")


def run_unlock(arguments: argparse.Namespace) -> None:
    """`tortie datastore migrate unlock`."""
    _set_ready(arguments, ready=True)
    print("Datastore unlocked.")


def _set_ready(arguments: argparse.Namespace, *, ready: bool) -> None:
    """Write ClusterInformation's `datastoreReady`. Raises CommandFailed."""
    from agent.clock import SystemClock
    from agent.datastore.datastore_lock import LOCK_KEY, with_ready
    from ipam.etcd.store import Committed, Put, Unchanged, optimistic, revision_of

    now = SystemClock().wall().strftime("%Y-%m-%dT%H:%M:%SZ")

    async def work(store: Store) -> bool:
        async def attempt() -> bool | None:
            stored = await store.get(LOCK_KEY)
            guard = Unchanged(LOCK_KEY, revision_of(stored))
            put = Put(LOCK_KEY, with_ready(stored, now, ready=ready))
            return True if isinstance(await store.commit((guard,), (put,)), Committed) else None

        return await optimistic(
            attempt, MOST_LOCK_WRITES, f"somebody else keeps changing {LOCK_KEY}; try again"
        )

    with_store(arguments, work, though_locked=True)
