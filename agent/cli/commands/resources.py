"""`tortie get, create, apply, replace, delete, validate`: resources in and out of the datastore, as in calicoctl."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from agent.cli import resource_changes, resource_files
from agent.cli.failure import CommandFailed
from agent.cli.kind_tables import FORMS, NAMES, kind_named, shown

if TYPE_CHECKING:  # imported when a command runs, so that `tortie --help` is quick
    from agent.datastore.resource_writer import WriteMode
    from agent.datastore.resources.documents import ParsedResource
    from agent.datastore.resources.resource_types import Resource
    from ipam.etcd.store import Store

CREATE_EXAMPLES = """\
examples:
  tortie create -f pool.yaml
  tortie create -f pools/ --skip-exists
"""
APPLY_EXAMPLES = """\
examples:
  tortie apply -f pool.json
  tortie apply -f pools/ -f node.yaml --dry-run
  tortie get ippools -o yaml | tortie apply -f -

A dry run asks the datastore everything that a real one asks, and writes nothing.
"""
REPLACE_EXAMPLES = """\
examples:
  tortie replace -f pool.json
  tortie get bgppeer tor -o yaml | tortie replace -f -

A document that bears the resourceVersion it was read with is refused when somebody has changed the resource since.
"""
GET_EXAMPLES = """\
examples:
  tortie get ippools
  tortie get nodes -o wide
  tortie get ippool default-ipv4-ippool -o yaml
  tortie get workloadendpoints -a -o wide
  tortie get blockaffinities
"""
DELETE_EXAMPLES = """\
examples:
  tortie delete -f pool.json
  tortie delete ippool default-ipv4-ippool
  tortie delete bgppeers tor spine --skip-not-exists

The addresses of a deleted pool that are in use stay allocated.
"""
VALIDATE_EXAMPLES = """\
examples:
  tortie validate -f pool.yaml
  tortie validate -f pools/ -R

Looks at the files alone. What the datastore says to them tells: tortie apply --dry-run
"""


def add_parsers(subparsers: Any) -> None:
    """Add this module's commands."""
    raw = argparse.RawDescriptionHelpFormatter

    def add(name: str, sentence: str, examples: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = subparsers.add_parser(
            name, help=sentence, epilog=examples, formatter_class=raw
        )
        return added

    get = add("get", "show resources", GET_EXAMPLES)
    get.add_argument("kind", metavar="KIND", help=NAMES)
    get.add_argument("names", nargs="*", metavar="NAME")
    get.add_argument("-o", "--output", choices=FORMS, default="table")
    get.add_argument("-n", "--namespace", metavar="NS", help="pods of this namespace alone")
    get.add_argument("-a", "--all-namespaces", action="store_true", help="pods with their namespaces")
    get.set_defaults(run=run_get)
    create = add("create", "make resources that are not there yet", CREATE_EXAMPLES)
    create.add_argument("--skip-exists", action="store_true", help="leave what is there already as it is")
    apply = add("apply", "create or update resources", APPLY_EXAMPLES)
    replace = add("replace", "replace resources that are there", REPLACE_EXAMPLES)
    for parser, run in ((create, run_create), (apply, run_apply), (replace, run_replace)):
        resource_files.add_arguments(parser, required=True)
        resource_changes.add_arguments(parser)
        parser.set_defaults(run=run)
    delete = add("delete", "remove resources", DELETE_EXAMPLES)
    delete.add_argument("kind", nargs="?", metavar="KIND")
    delete.add_argument("names", nargs="*", metavar="NAME")
    delete.add_argument(
        "-s", "--skip-not-exists", action="store_true", help="what is gone already is no error"
    )
    resource_files.add_arguments(delete, required=False)
    resource_changes.add_arguments(delete, forms=("table", "name"))
    delete.set_defaults(run=run_delete)
    validate = add("validate", "check files without a datastore", VALIDATE_EXAMPLES)
    resource_files.add_arguments(validate, required=True)
    validate.set_defaults(run=run_validate)


def run_get(arguments: argparse.Namespace) -> None:
    """`tortie get`: what can be read is shown, even if something beside it cannot."""
    from agent.cli.connection import with_store
    from agent.clock import SystemClock
    from agent.datastore.resource_writer import NotFound, ResourceWriter
    from agent.datastore.storage_layout import Damaged

    kind = kind_named(arguments.kind)

    async def work(store: Store) -> tuple[list[Resource], list[str]]:
        admission = ResourceWriter(store, SystemClock())
        if arguments.names:
            return [await admission.get(kind, name) for name in arguments.names], []
        return await admission.list_kind(kind)

    try:
        resources, damaged = with_store(arguments, work)
    except (NotFound, Damaged) as error:
        raise CommandFailed(str(error)) from error
    if arguments.namespace is not None:
        resources = [each for each in resources if each.metadata.namespace == arguments.namespace]
    print(
        shown(
            kind,
            resources,
            arguments.output,
            single=len(arguments.names) == 1,
            namespaces=arguments.all_namespaces,
        )
    )
    if damaged:
        raise CommandFailed("\n".join(damaged))


def run_create(arguments: argparse.Namespace) -> None:
    """`tortie create`."""
    from agent.datastore.resource_writer import Exists, WriteMode

    _write(arguments, WriteMode.CREATE, "created", Exists if arguments.skip_exists else None)


def run_apply(arguments: argparse.Namespace) -> None:
    """`tortie apply`."""
    from agent.datastore.resource_writer import WriteMode

    _write(arguments, WriteMode.APPLY, "applied")


def run_replace(arguments: argparse.Namespace) -> None:
    """`tortie replace`."""
    from agent.datastore.resource_writer import WriteMode

    _write(arguments, WriteMode.REPLACE, "replaced")


def _write(
    arguments: argparse.Namespace, verb: WriteMode, done: str, skip: type[Exception] | None = None
) -> None:
    from agent.datastore.resources.resource_types import kind_of

    def step(found: ParsedResource) -> resource_changes.Step:
        kind, name = kind_of(found.resource), found.resource.metadata.name
        return resource_changes.Step(kind, name, lambda admission: admission.write(found, verb))

    steps = [step(found) for found in resource_files.read_files(arguments)]
    resource_changes.carry_out(
        arguments, steps, resource_changes.Words(done, resource_changes.counted(done), skip)
    )


def run_delete(arguments: argparse.Namespace) -> None:
    """`tortie delete`."""
    from agent.datastore.resource_writer import NotFound

    by_name = arguments.kind is not None and bool(arguments.names)
    if by_name == bool(arguments.filename) or (arguments.kind is None) != (not arguments.names):
        raise CommandFailed("name either -f FILE or KIND and NAME, such as: tortie delete ippool my-pool")
    if arguments.filename:
        steps = [_deleting(found.resource) for found in resource_files.read_files(arguments)]
    else:
        steps = [_deleting_named(kind_named(arguments.kind), name) for name in arguments.names]
    skip = NotFound if arguments.skip_not_exists else None
    resource_changes.carry_out(
        arguments, steps, resource_changes.Words("deleted", resource_changes.counted("deleted"), skip)
    )


def _deleting(resource: Resource) -> resource_changes.Step:
    from agent.datastore.resources.resource_types import kind_of

    return resource_changes.Step(
        kind_of(resource), resource.metadata.name, lambda admission: admission.delete(resource)
    )


def _deleting_named(kind: str, name: str) -> resource_changes.Step:
    return resource_changes.Step(kind, name, lambda admission: admission.delete_named(kind, name))


def run_validate(arguments: argparse.Namespace) -> None:
    """`tortie validate`."""
    from agent.datastore.resources.documents import overlaps
    from agent.datastore.resources.resource_types import kind_of

    found = resource_files.read_files(arguments)
    if sentences := overlaps(found):
        raise CommandFailed("\n".join(sentences))
    print(resource_changes.counted_kinds("validated", [kind_of(item.resource) for item in found]))
