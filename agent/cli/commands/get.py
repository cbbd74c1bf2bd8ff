"""`tortie get`: resources as tables, documents, names, or the fields that somebody asks for.

Promises: what is found is shown, even if something beside it is missing or cannot be read; then that is said, and the
exit code is 1. Does not know: the kinds' fields, and where they are stored.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from agent.cli.command import CommandFailed, add_command, reported
from agent.cli.connection import with_store
from agent.cli.kind_tables import ALIASES, FORMS, NAMES, document, kind_named, resources_text
from agent.cli.resource_files import add_file_arguments, read_files

if TYPE_CHECKING:  # imported when a command runs, so that `tortie --help` is quick
    from agent.datastore.resources.resource_types import Resource
    from agent.datastore.writing.resource_writer import ResourceWriter
    from ipam.etcd.store import Store

EXAMPLES = """\
examples:
  tortie get ippools
  tortie get nodes -o wide
  tortie get ippool default-ipv4-ippool -o yaml
  tortie get workloadendpoints -A -o wide
  tortie get nodes -l 'rack == "r1"' --show-labels
  tortie get ippools,bgppeers
  tortie get all
  tortie get blockaffinities
  tortie get ippools -o custom-columns=NAME:.metadata.name,CIDR:.spec.cidr
  tortie get ippools -o jsonpath='{range .items[*]}{.metadata.name}{"\\n"}{end}'
  tortie get -f pool.json

-l takes Calico's selectors and kubectl's: rack=r1,!gpu. For --json and other programs, the documents of -o json and
-o yaml are what `apply -f` takes.
"""
TEMPLATES = ("custom-columns", "jsonpath")
"""Forms that have something behind a `=`."""
ALL = "all"

Asked = dict[str, list[str]]
"""Kind -> the names asked for; none for all of it."""


def add_parsers(subparsers: Any) -> None:
    """Add this module's command."""
    get = add_command(subparsers, "get", "show resources", run_get, EXAMPLES)
    get.add_argument("kind", metavar="KIND", nargs="?", help=f"{NAMES}; several with commas; all; KIND/NAME")
    get.add_argument("names", nargs="*", metavar="NAME")
    forms = ", ".join((*FORMS, *(f"{form}=..." for form in TEMPLATES)))
    get.add_argument("-o", "--output", type=_form, default="table", metavar="FORM", help=forms)
    get.add_argument("-n", "--namespace", metavar="NS", help="pods of this namespace alone")
    get.add_argument("-a", "-A", "--all-namespaces", action="store_true", help="pods with their namespaces")
    get.add_argument("-l", "--selector", metavar="SELECTOR", help="those alone whose labels match")
    get.add_argument("--show-labels", action="store_true", help="a column with the labels")
    add_file_arguments(get, required=False)


def _form(text: str) -> str:
    """What `-o` takes. Raises ArgumentTypeError."""
    form, equals, template = text.partition("=")
    if text in FORMS or (form in TEMPLATES and equals and template):
        return text
    wants = f"; {form}=... wants something behind it" if form in TEMPLATES else ""
    known = ", ".join((*FORMS, *(f"{one}=..." for one in TEMPLATES)))
    raise argparse.ArgumentTypeError(f"no form {text!r}; known are {known}{wants}")


def run_get(arguments: argparse.Namespace) -> None:
    """`tortie get`."""
    from agent.clock import SystemClock
    from agent.datastore.writing.resource_writer import ResourceWriter

    asked = _asked(arguments)
    chosen = _selected_by(arguments.selector)
    faults: list[str] = []

    async def work(store: Store) -> dict[str, list[Resource]]:
        writer = ResourceWriter(store, SystemClock())
        return {kind: await _read(writer, kind, names, faults) for kind, names in asked.items()}

    found = with_store(arguments, work)
    for kind, resources in found.items():
        found[kind] = [
            one
            for one in resources
            if arguments.namespace in (None, one.metadata.namespace) and chosen(one.metadata.labels or {})
        ]
    text = _text(arguments, found, single=sum(map(len, asked.values())) == 1)
    if text or not faults:
        print(text)
    if faults:
        raise CommandFailed("\n".join(faults))


def _asked(arguments: argparse.Namespace) -> Asked:
    """What the words and files of a command line ask for. Raises CommandFailed."""
    from agent.datastore.resources.resource_types import kind_of

    if (arguments.kind is None) == (not arguments.filename):
        raise CommandFailed("name either KIND or -f FILE, such as: tortie get ippools")
    found: Asked = {}
    if arguments.filename:
        for one in read_files(arguments):
            found.setdefault(kind_of(one.resource), []).append(one.resource.metadata.name)
        return found
    words = [arguments.kind, *arguments.names]
    if all("/" in word for word in words):
        for word in words:
            kind, _, name = word.partition("/")
            found.setdefault(kind_named(kind), []).append(name)
        return found
    kinds = (
        list(ALIASES) if arguments.kind.lower() == ALL else list(map(kind_named, arguments.kind.split(",")))
    )
    if len(kinds) > 1 and arguments.names:
        raise CommandFailed("a NAME is of one kind; write KIND/NAME KIND/NAME, or one KIND with its names")
    return {kind: list(arguments.names) for kind in kinds}


async def _read(writer: ResourceWriter, kind: str, names: Sequence[str], faults: list[str]) -> list[Resource]:
    """What is there of it; `faults` gets a sentence for each that is not, or cannot be read."""
    from agent.datastore.writing.resource_writer import NotFound
    from ipam.failures import Unreadable

    if not names:
        found, unreadable = await writer.list_kind(kind)
        faults += [f"{kind} cannot be read: {error}" for error in unreadable]
        return found
    found = []
    for name in names:
        try:
            found.append(await writer.get(kind, name))
        except NotFound as error:
            faults.append(str(error))
        except Unreadable as error:
            faults.append(f"{kind} cannot be read: {error}")
    return found


def _selected_by(text: str | None) -> Any:
    """Whether labels match the text of `-l`, which is Calico's selector or kubectl's. Raises CommandFailed."""
    if text is None:
        return lambda _: True
    from ipam.selector import SelectorError, parse

    with reported(SelectorError, prefix=f"-l {text!r}: "):
        try:
            return parse(text).matches
        except SelectorError:
            if "=" not in text.replace("==", "").replace("!=", "") and "," not in text:
                raise
            return parse(_calicos(text)).matches


def _calicos(text: str) -> str:
    """kubectl's `a=b,c!=d,e,!f` as Calico's selector."""
    terms = []
    for term in (part.strip() for part in text.split(",")):
        for operator, calicos in (("!=", "!="), ("==", "=="), ("=", "==")):
            label, found, value = term.partition(operator)
            if found:
                terms.append(f'{label.strip()} {calicos} "{value.strip()}"')
                break
        else:
            terms.append(f"!has({term[1:].strip()})" if term.startswith("!") else f"has({term})")
    return " && ".join(terms)


def _text(arguments: argparse.Namespace, found: dict[str, list[Resource]], *, single: bool) -> str:
    """What was found, in the form asked for. Raises CommandFailed."""
    form, _, template = arguments.output.partition("=")
    kind = next(iter(found)) if len(found) == 1 else ""
    everything = [resource for resources in found.values() for resource in resources]
    if form in TEMPLATES:
        return _fields(form, template, everything, single=single)
    if form in ("json", "yaml"):
        return document(kind, everything, form, single=single)
    asks_for_all = len(found) == 1 and not (arguments.names or arguments.filename)  # then heads without rows
    tables = [
        resources_text(
            kind,
            resources,
            form,
            namespaces=arguments.all_namespaces,
            labels=arguments.show_labels,
            prefixed=len(found) > 1,
        )
        for kind, resources in found.items()
        if resources or asks_for_all
    ]
    return ("\n" if form == "name" else "\n\n").join(tables)


def _fields(form: str, template: str, resources: Iterable[Resource], *, single: bool) -> str:
    """The fields that a template names; of one resource asked for by name its own, else those of a list."""
    import msgspec

    from agent.cli.field_paths import cell, column_paths, filled
    from agent.tables import columns

    values = [msgspec.to_builtins(resource) for resource in resources]
    if form == "jsonpath":
        return filled(template, values[0] if single and len(values) == 1 else {"items": values})
    heads = column_paths(template)
    return columns(
        [head for head, _ in heads], [[cell(value, path) for _, path in heads] for value in values]
    )
