"""The kinds that `tortie get` and its like know: how a person names them, and their tables, as calicoctl has them.

Promises: pure text. Does not know: the datastore.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from agent.cli.command import CommandFailed
from agent.tables import columns, data

if TYPE_CHECKING:  # imported when a command runs, so that `tortie --help` is quick
    from agent.datastore.resources.resource_types import Resource

ALIASES = {
    "IPPool": ("ippool", "ippools", "ipp", "pool", "pools"),
    "Node": ("node", "nodes", "no", "nos"),
    "BGPConfiguration": (
        "bgpconfiguration",
        "bgpconfigurations",
        "bgpconfig",
        "bgpconfigs",
    ),
    "BGPPeer": ("bgppeer", "bgppeers", "bgpp", "bgpps", "bp", "bps"),
    "BGPFilter": ("bgpfilter", "bgpfilters", "bgpf", "bgpfs", "bf", "bfs"),
    "IPReservation": ("ipreservation", "ipreservations", "reservation", "reservations"),
    "IPAMConfiguration": ("ipamconfiguration", "ipamconfigurations", "ipamconfig", "ipamconfigs"),
    "WorkloadEndpoint": ("workloadendpoint", "workloadendpoints", "wep", "weps"),
    "BlockAffinity": ("blockaffinity", "blockaffinities", "affinity", "affinities"),
}
"""How a person names each kind; the second is what help and errors say."""

NAMES = ", ".join(names[1] for names in ALIASES.values())
FORMS = ("table", "wide", "yaml", "json", "name")
LONGEST_CELL = 80


def kind_named(word: str) -> str:
    """The kind a person means. Raises CommandFailed."""
    for kind, names in ALIASES.items():
        if word.lower() in names:
            return kind
    raise CommandFailed(f"kind {word!r} is not known; known are {NAMES}")


def resources_text(
    kind: str, resources: list[Resource], output: str, *, single: bool, namespaces: bool = False
) -> str:
    """Resources of one kind as text in the form asked for; `namespaces`: tables say where pods are."""
    if output in ("yaml", "json"):
        return document(kind, resources, output, single=single)
    if output == "name":
        return "\n".join(name_of(kind, resource.metadata.name) for resource in resources)

    heads, row = (WIDE if output == "wide" else TABLE)[kind]
    rows = [row(resource) for resource in resources]
    if namespaces and kind == "WorkloadEndpoint":
        heads = ("NAMESPACE", *heads)
        rows = [
            (each.metadata.namespace or "default", *cells)
            for each, cells in zip(resources, rows, strict=True)
        ]
    return columns(heads, rows)


def document(kind: str, resources: list[Resource], output: str, *, single: bool) -> str:
    """Resources as one YAML or JSON document, which `apply -f` reads; `kind` is that of the list, or empty."""
    import msgspec

    from agent.datastore.resources.resource_types import API_VERSION

    items = [msgspec.to_builtins(resource) for resource in resources]
    whole = {"kind": f"{kind}List", "apiVersion": API_VERSION, "metadata": {}, "items": items}
    chosen = items[0] if single and len(items) == 1 else whole
    return data(chosen, output)


def name_of(kind: str, name: str) -> str:
    """`ippool/default-ipv4-ippool`: what scripts take apart."""
    return f"{ALIASES[kind][0]}/{name}"


Row = Callable[[Any], tuple[object, ...]]
Table = tuple[tuple[str, ...], Row]


def _low(value: bool) -> str:
    return str(value).lower()


def _joined(texts: list[str]) -> str:
    """Texts in one cell of at most LONGEST_CELL characters, as calicoctl's joinAndTruncate does it."""
    text = ",".join(texts)
    return text if len(text) <= LONGEST_CELL else f"{text[: LONGEST_CELL - 3]}..."


TABLE: dict[str, Table] = {
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
    "IPReservation": (("NAME",), lambda r: (r.metadata.name,)),
    "IPAMConfiguration": (
        ("NAME", "STRICTAFFINITY", "AUTOALLOCATEBLOCKS"),
        lambda r: (r.metadata.name, _low(r.spec.strict_affinity), _low(r.spec.auto_allocate_blocks)),
    ),
    "BlockAffinity": (
        ("NAME", "CIDR", "NODE", "STATE"),
        lambda r: (r.metadata.name, r.spec.cidr, r.spec.node, r.spec.state),
    ),
}
"""Kind -> heads and cells of `get`, as calicoctl has them; it has no table of block affinities."""

WIDE: dict[str, Table] = {
    **TABLE,
    "IPPool": (
        (
            "NAME",
            "CIDR",
            "NAT",
            "IPIPMODE",
            "VXLANMODE",
            "DISABLED",
            "DISABLEBGPEXPORT",
            "SELECTOR",
            "ASSIGNMENTMODE",
        ),
        lambda r: (
            r.metadata.name,
            r.spec.cidr,
            _low(r.spec.nat_outgoing),
            r.spec.ipip_mode,
            r.spec.vxlan_mode,
            _low(r.spec.disabled),
            _low(r.spec.disable_bgp_export),
            r.spec.node_selector,
            r.spec.assignment_mode,
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
    "WorkloadEndpoint": (
        ("NAME", *TABLE["WorkloadEndpoint"][0], "PROFILES"),
        lambda r: (r.metadata.name, *TABLE["WorkloadEndpoint"][1](r), ",".join(r.spec.profiles or ())),
    ),
    "IPReservation": (
        ("NAME", "CIDRS"),
        lambda r: (r.metadata.name, _joined(r.spec.reserved_cidrs)),
    ),
    "IPAMConfiguration": (
        (*TABLE["IPAMConfiguration"][0], "MAXBLOCKSPERHOST"),
        lambda r: (*TABLE["IPAMConfiguration"][1](r), r.spec.max_blocks_per_host),
    ),
}
"""Kind -> heads and cells of `get -o wide`."""
