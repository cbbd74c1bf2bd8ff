"""`tortie apply`, `get`, `delete`: resources in and out of the datastore, in calicoctl's words and tables."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # imported when a command runs, so that `tortie --help` is quick
    from agent.datastore.documents import Found
    from agent.datastore.resources import Resource

ALIASES = {
    "IPPool": ("ippool", "ippools", "ipp"),
    "Node": ("node", "nodes"),
    "BGPConfiguration": ("bgpconfiguration", "bgpconfigurations", "bgpconfig"),
    "BGPPeer": ("bgppeer", "bgppeers", "bgpp", "bp"),
    "BGPFilter": ("bgpfilter", "bgpfilters", "bgpf", "bf"),
    "WorkloadEndpoint": ("workloadendpoint", "workloadendpoints", "wep", "weps"),
}
"""How a person names each kind."""

APPLY_EXAMPLES = """\
examples:
  tortie apply -f pool.json
  tortie apply -f pools.yaml -f node.yaml
  tortie get ippools -o yaml | tortie apply -f -
"""
GET_EXAMPLES = """\
examples:
  tortie get ippools
  tortie get nodes -o wide
  tortie get ippool default-ipv4-ippool -o yaml
  tortie get workloadendpoints -o json
"""
DELETE_EXAMPLES = """\
examples:
  tortie delete -f pool.json
  tortie delete ippool default-ipv4-ippool
"""


def add_parsers(subparsers: Any) -> None:
    """Add this module's commands."""
    raw = argparse.RawDescriptionHelpFormatter
    apply = subparsers.add_parser(
        "apply", help="create or update resources", epilog=APPLY_EXAMPLES, formatter_class=raw
    )
    apply.add_argument(
        "-f", "--filename", action="append", required=True, metavar="FILE", help="YAML or JSON; - is stdin"
    )
    apply.set_defaults(run=run_apply)
    get = subparsers.add_parser("get", help="show resources", epilog=GET_EXAMPLES, formatter_class=raw)
    get.add_argument("kind", metavar="KIND", help=", ".join(names[1] for names in ALIASES.values()))
    get.add_argument("name", nargs="?", metavar="NAME")
    get.add_argument("-o", "--output", choices=("table", "wide", "yaml", "json", "name"), default="table")
    get.set_defaults(run=run_get)
    delete = subparsers.add_parser(
        "delete", help="remove resources", epilog=DELETE_EXAMPLES, formatter_class=raw
    )
    delete.add_argument("kind", nargs="?", metavar="KIND")
    delete.add_argument("name", nargs="?", metavar="NAME")
    delete.add_argument("-f", "--filename", action="append", metavar="FILE", help="YAML or JSON; - is stdin")
    delete.set_defaults(run=run_delete)


def kind_named(word: str) -> str:
    """The kind a person means. Raises CommandFailed."""
    from agent.cli.failure import CommandFailed

    for kind, names in ALIASES.items():
        if word.lower() in names:
            return kind
    raise CommandFailed(
        f"kind {word!r} is not known; known are {', '.join(names[1] for names in ALIASES.values())}"
    )


def read_files(names: list[str]) -> list[Found]:
    """All resources of all files, checked before anything is done with the first. Raises CommandFailed."""
    from agent.cli.failure import CommandFailed
    from agent.datastore.documents import InvalidDocument, read

    found: list[Found] = []
    faults: list[str] = []
    for name in names:
        try:
            text = sys.stdin.read() if name == "-" else Path(name).read_text()
            found += read(text, "standard input" if name == "-" else name)
        except (OSError, UnicodeDecodeError) as error:
            faults.append(f"{name}: cannot be read: {error}")
        except InvalidDocument as error:
            faults += error.sentences
    if faults:
        raise CommandFailed("\n".join(faults))
    return found


def run_apply(arguments: argparse.Namespace) -> None:
    """`tortie apply`."""
    from agent.cli.connection import with_store
    from agent.cli.failure import CommandFailed
    from agent.clock import SystemClock
    from agent.datastore.admission import Admission
    from agent.datastore.documents import InvalidDocument
    from agent.datastore.resources import kind_of
    from ipam.store import Store

    found = read_files(arguments.filename)

    async def work(store: Store) -> None:
        admission = Admission(store, SystemClock())
        for item in found:
            outcome = await admission.apply(item)
            print(f"{kind_of(item.resource)} {item.resource.metadata.name} {outcome}")

    try:
        with_store(arguments, work)
    except InvalidDocument as error:
        raise CommandFailed(str(error)) from error


def run_get(arguments: argparse.Namespace) -> None:
    """`tortie get`."""
    from agent.cli.connection import with_store
    from agent.cli.failure import CommandFailed
    from agent.clock import SystemClock
    from agent.datastore.admission import Admission, NotFound
    from ipam.store import Store

    kind = kind_named(arguments.kind)

    async def work(store: Store) -> list[Resource]:
        return await Admission(store, SystemClock()).read(kind, arguments.name)

    try:
        resources = with_store(arguments, work)
    except NotFound as error:
        raise CommandFailed(str(error)) from error
    print(shown(kind, resources, arguments.output, single=arguments.name is not None))


def run_delete(arguments: argparse.Namespace) -> None:
    """`tortie delete`."""
    from agent.cli.connection import with_store
    from agent.cli.failure import CommandFailed
    from agent.clock import SystemClock
    from agent.datastore.admission import Admission, NotFound
    from agent.datastore.resources import kind_of
    from ipam.store import Store

    by_name = arguments.kind is not None and arguments.name is not None
    if by_name == bool(arguments.filename) or (arguments.kind is None) != (arguments.name is None):
        raise CommandFailed("name either -f FILE or KIND and NAME, such as: tortie delete ippool my-pool")
    found = read_files(arguments.filename) if arguments.filename else []

    async def work(store: Store) -> None:
        admission = Admission(store, SystemClock())
        chosen = [item.resource for item in found]
        if not found:
            chosen = await admission.read(kind_named(arguments.kind), arguments.name)
        for resource in chosen:
            await admission.delete(resource)
            print(f"{kind_of(resource)} {resource.metadata.name} deleted")

    try:
        with_store(arguments, work)
    except NotFound as error:
        raise CommandFailed(str(error)) from error


def shown(kind: str, resources: list[Resource], output: str, *, single: bool) -> str:
    """Resources as text in the form asked for."""
    import msgspec

    from agent.cli.tables import columns
    from agent.datastore.resources import API_VERSION

    if output in ("yaml", "json"):
        items = [msgspec.to_builtins(resource) for resource in resources]
        document = (
            items[0]
            if single
            else {"kind": f"{kind}List", "apiVersion": API_VERSION, "metadata": {}, "items": items}
        )
        if output == "json":
            return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
        return msgspec.yaml.encode(document).decode().rstrip()
    if output == "name":
        return "\n".join(f"{ALIASES[kind][0]}/{resource.metadata.name}" for resource in resources)
    heads, row = (WIDE if output == "wide" else TABLE)[kind]
    return columns(heads, [row(resource) for resource in resources])


Row = Callable[[Any], tuple[object, ...]]


def _low(value: bool) -> str:
    return str(value).lower()


TABLE: dict[str, tuple[tuple[str, ...], Row]] = {
    "IPPool": (("NAME", "CIDR", "SELECTOR"), lambda r: (r.metadata.name, r.spec.cidr, r.spec.node_selector)),
    "Node": (("NAME",), lambda r: (r.metadata.name,)),
    "BGPConfiguration": (
        ("NAME", "LOGSEVERITY", "MESHENABLED", "ASNUMBER"),
        lambda r: (
            r.metadata.name,
            r.spec.log_severity_screen,
            _low(r.spec.node_to_node_mesh_enabled),
            r.spec.as_number,
        ),
    ),
    "BGPPeer": (
        ("NAME", "PEERIP", "NODE", "ASN"),
        lambda r: (
            r.metadata.name,
            r.spec.peer_ip or r.spec.peer_selector or "",
            r.spec.node or r.spec.node_selector or "(global)",
            r.spec.as_number or "",
        ),
    ),
    "BGPFilter": (
        ("NAME", "NUMEXPORTV4", "NUMIMPORTV4", "NUMEXPORTV6", "NUMIMPORTV6"),
        lambda r: (
            r.metadata.name,
            *(len(rules or ()) for rules in (r.spec.export_v4, r.spec.import_v4)),
            *(len(rules or ()) for rules in (r.spec.export_v6, r.spec.import_v6)),
        ),
    ),
    "WorkloadEndpoint": (
        ("WORKLOAD", "NODE", "NETWORKS", "INTERFACE"),
        lambda r: (
            r.spec.pod or r.spec.workload or r.spec.container_id or "",
            r.spec.node,
            ",".join(r.spec.ip_networks),
            r.spec.interface_name,
        ),
    ),
}
"""Kind -> heads and cells of `get`, as calicoctl has them."""

WIDE: dict[str, tuple[tuple[str, ...], Row]] = {
    **TABLE,
    "IPPool": (
        ("NAME", "CIDR", "NAT", "IPIPMODE", "VXLANMODE", "DISABLED", "DISABLEBGPEXPORT", "SELECTOR"),
        lambda r: (
            r.metadata.name,
            r.spec.cidr,
            _low(r.spec.nat_outgoing),
            r.spec.ipip_mode,
            r.spec.vxlan_mode,
            _low(r.spec.disabled),
            _low(r.spec.disable_bgp_export),
            r.spec.node_selector,
        ),
    ),
    "Node": (
        ("NAME", "ASN", "IPV4", "IPV6"),
        lambda r: (
            r.metadata.name,
            (r.spec.bgp.as_number if r.spec.bgp else None) or "(64512)",
            (r.spec.bgp.ipv4_address if r.spec.bgp else None) or "",
            (r.spec.bgp.ipv6_address if r.spec.bgp else None) or "",
        ),
    ),
}
"""The same for `-o wide`."""
