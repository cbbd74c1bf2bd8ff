"""`tortie create, apply, replace, delete, validate`: resources into the datastore and out of it, as in calicoctl.

Promises: every fault of every file that `-f` names is reported at once, and before anything is done with the first
resource; a dry run comes first, so either all is written or nothing.
Does not know: the kinds and their fields, and where they are stored.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from agent.cli import resource_changes
from agent.cli.command import CommandFailed, add_command
from agent.cli.kind_tables import kind_named
from agent.cli.living_nodes import require_gone
from agent.cli.resource_files import add_file_arguments, read_files

if TYPE_CHECKING:  # imported when a command runs, so that `tortie --help` is quick
    from agent.datastore.resources.documents import ParsedResource
    from agent.datastore.resources.resource_types import Resource

CREATE_EXAMPLES = """\
examples:
  tortie create -f pool.yaml
  tortie create -f pools/ --skip-exists
"""
APPLY_EXAMPLES = """\
examples:
  tortie apply -f pool.json
  tortie apply -f pools/ -f node.yaml --dry-run
  tortie apply -f pools/ --skip-other-kinds
  tortie get ippools -o yaml | tortie apply -f -

A dry run asks the datastore everything that a real one asks, and writes nothing.
"""
REPLACE_EXAMPLES = """\
examples:
  tortie replace -f pool.json
  tortie get bgppeer tor -o yaml | tortie replace -f -

A document that bears the resourceVersion it was read with is refused when somebody has changed the resource since.
"""
DELETE_EXAMPLES = """\
examples:
  tortie delete -f pool.json
  tortie delete ippool default-ipv4-ippool
  tortie delete bgppeers tor spine --skip-not-exists
  tortie delete node node9 --skip-not-exists

The addresses of a deleted pool that are in use stay allocated. A node goes with its addresses, claims, endpoints, BGP
peers and node.NAME settings, as in calicoctl, and not while it lives. Interrupted, it is to be deleted once more.
"""
VALIDATE_EXAMPLES = """\
examples:
  tortie validate -f pool.yaml
  tortie validate -f pools/ -R

Looks at the files alone. To ask the datastore as well: tortie apply --dry-run
"""

WRITTEN = {"create": "created", "apply": "applied", "replace": "replaced"}
"""Command -> what its report says of a resource."""


def add_parsers(subparsers: Any) -> None:
    """Add this module's commands."""
    text = "make resources that are not there yet"
    create = add_command(subparsers, "create", text, run_write, CREATE_EXAMPLES)
    create.add_argument("--skip-exists", action="store_true", help="leave what is there already as it is")
    apply = add_command(subparsers, "apply", "create or update resources", run_write, APPLY_EXAMPLES)
    text = "replace resources that are there"
    replace = add_command(subparsers, "replace", text, run_write, REPLACE_EXAMPLES)
    for parser in (create, apply, replace):
        add_file_arguments(parser, required=True)
        parser.add_argument(
            "--force",
            action="store_true",
            help="make a pool although nodes or services have addresses in its range",
        )
        resource_changes.add_change_arguments(parser)
    delete = add_command(subparsers, "delete", "remove resources", run_delete, DELETE_EXAMPLES)
    delete.add_argument("kind", nargs="?", metavar="KIND")
    delete.add_argument("names", nargs="*", metavar="NAME")
    delete.add_argument(
        "-s", "--skip-not-exists", action="store_true", help="what is gone already is no error"
    )
    delete.add_argument(
        "--force",
        action="store_true",
        help="delete a pool although pods have addresses of it, a node although it seems to live",
    )
    add_file_arguments(delete, required=False)
    resource_changes.add_change_arguments(delete, forms=("table", "name"))
    text = "check files without a datastore"
    validate = add_command(subparsers, "validate", text, run_validate, VALIDATE_EXAMPLES)
    add_file_arguments(validate, required=True)


def run_write(arguments: argparse.Namespace) -> None:
    """`tortie create`, `tortie apply` and `tortie replace`."""
    from agent.datastore.resources.resource_types import kind_of
    from agent.datastore.writing.resource_writer import Exists, WriteMode

    verb = WriteMode[arguments.command.upper()]
    skip = Exists if arguments.command == "create" and arguments.skip_exists else None

    def change(found: ParsedResource) -> resource_changes.Change:
        kind, name = kind_of(found.resource), found.resource.metadata.name
        return resource_changes.Change(
            kind, name, lambda writer: writer.write(found, verb, force=arguments.force)
        )

    changes = [change(found) for found in read_files(arguments)]
    wording = resource_changes.Wording(WRITTEN[arguments.command], skip)
    resource_changes.carry_out(arguments, changes, wording)


def run_delete(arguments: argparse.Namespace) -> None:
    """`tortie delete`."""
    from agent.datastore.writing.resource_writer import NotFound

    by_name = arguments.kind is not None and bool(arguments.names)
    if by_name == bool(arguments.filename) or (arguments.kind is None) != (not arguments.names):
        raise CommandFailed("name either -f FILE or KIND and NAME, such as: tortie delete ippool my-pool")
    if arguments.filename:
        changes = [_deleting(found.resource, force=arguments.force) for found in read_files(arguments)]
    else:
        kind = kind_named(arguments.kind)
        changes = [_deleting_named(kind, name, force=arguments.force) for name in arguments.names]
    require_gone(arguments, [change.name for change in changes if change.kind == "Node"])
    skip = NotFound if arguments.skip_not_exists else None
    resource_changes.carry_out(arguments, changes, resource_changes.Wording("deleted", skip))


def _deleting(resource: Resource, *, force: bool) -> resource_changes.Change:
    from agent.datastore.resources.resource_types import kind_of

    return resource_changes.Change(
        kind_of(resource), resource.metadata.name, lambda writer: writer.delete(resource, force=force)
    )


def _deleting_named(kind: str, name: str, *, force: bool) -> resource_changes.Change:
    return resource_changes.Change(kind, name, lambda writer: writer.delete_named(kind, name, force=force))


def run_validate(arguments: argparse.Namespace) -> None:
    """`tortie validate`."""
    from agent.datastore.resources.documents import overlaps
    from agent.datastore.resources.resource_types import kind_of

    found = read_files(arguments)
    refusals = [item.error(sentence) for item in found for sentence in item.refusals]
    if sentences := [*refusals, *overlaps(found)]:
        raise CommandFailed("\n".join(sentences))
    for item in found:
        for sentence in item.notes:
            resource_changes.warn(item.error(sentence))
    print(resource_changes.counted("validated", [kind_of(item.resource) for item in found]))
