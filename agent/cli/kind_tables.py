"""The kinds that `tortie get` and its like know: how a person names them, and their tables, as calicoctl has them.

Promises: pure text. Does not know: the datastore.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from agent.cli.command import CommandFailed, nearest
from agent.tables import columns, data

if TYPE_CHECKING:  # imported when a command runs, so that `tortie --help` is quick
    from agent.datastore.resources.resource_types import Resource

ALIASES = {
    "IPPool": ("ippool", "ippools", "ipp", "pool", "pools"),
    "Node": ("node", "nodes", "no", "nos"),
    "BGPConfiguration": ("bgpconfiguration", "bgpconfigurations", "bgpconfig", "bgpconfigs"),
    "BGPPeer": ("bgppeer", "bgppeers", "bgpp", "bgpps", "bp", "bps"),
    "BGPFilter": ("bgpfilter", "bgpfilters", "bgpf", "bgpfs", "bf", "bfs"),
    "BFDConfiguration": ("bfdconfiguration", "bfdconfigurations", "bfdconfig", "bfdconfigs"),
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
    near = nearest(word, [name for names in ALIASES.values() for name in names])
    known = (
        f"known are {NAMES}; of Calico's other kinds docs/limits.md says which have no effect here, and why"
    )
    raise CommandFailed(f"kind {word!r} is not known{near}; {known}")


def resources_text(
    kind: str,
    resources: list[Resource],
    output: str,
    *,
    namespaces: bool = False,
    labels: bool = False,
    prefixed: bool = False,
) -> str:
    """Resources of one kind as `table`, `wide` or `name`.

    `namespaces`: tables say where pods are; `labels`: which labels each has; `prefixed`: KIND/NAME in place of NAME,
    for tables of several kinds.
    """
    if output == "name":
        return "\n".join(name_of(kind, resource.metadata.name) for resource in resources)

    cells: dict[str, Cell] = {
        "NAMESPACE": lambda r: r.metadata.namespace or "default",
        "NAME": lambda r: name_of(kind, r.metadata.name) if prefixed else r.metadata.name,
        **CELLS[kind],
        "LABELS": lambda r: ",".join(f"{k}={v}" for k, v in sorted((r.metadata.labels or {}).items())),
    }
    wide = ("NAME", *CELLS[kind])
    heads = wide if output == "wide" else NARROW.get(kind, wide)
    if namespaces and kind == "WorkloadEndpoint":
        heads = ("NAMESPACE", *heads)
    if labels:
        heads = (*heads, "LABELS")
    return columns(heads, [[_cell(cells[head](resource)) for head in heads] for resource in resources])


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


Cell = Callable[[Any], object]


def _cell(value: object) -> object:
    """A field for a table: empty for None, booleans as YAML has them, nothing that moves a terminal's cursor."""
    if value is None:
        return ""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if text.isprintable():
        return text
    from ipam.stored_json import printable

    return printable(text)


def _joined(texts: list[str]) -> str:
    """Texts in one cell of at most LONGEST_CELL characters, as calicoctl's joinAndTruncate does it."""
    text = ",".join(texts)
    return text if len(text) <= LONGEST_CELL else f"{text[: LONGEST_CELL - 3]}..."


CELLS: dict[str, dict[str, Cell]] = {
    "IPPool": {
        "CIDR": lambda r: r.spec.cidr,
        "NAT": lambda r: r.spec.nat_outgoing,
        "IPIPMODE": lambda r: r.spec.ipip_mode,
        "VXLANMODE": lambda r: r.spec.vxlan_mode,
        "DISABLED": lambda r: r.spec.disabled,
        "DISABLEBGPEXPORT": lambda r: r.spec.disable_bgp_export,
        "SELECTOR": lambda r: r.spec.node_selector,
        "ASSIGNMENTMODE": lambda r: r.spec.assignment_mode,
    },
    "Node": {
        "ASN": lambda r: (r.spec.bgp.as_number if r.spec.bgp else None) or "(64512)",
        "IPV4": lambda r: r.spec.bgp.ipv4_address if r.spec.bgp else None,
        "IPV6": lambda r: r.spec.bgp.ipv6_address if r.spec.bgp else None,
    },
    "BGPConfiguration": {
        "LOGSEVERITY": lambda r: r.spec.log_severity_screen,
        "MESHENABLED": lambda r: r.spec.has_mesh,
        "ASNUMBER": lambda r: r.spec.default_as_number,
    },
    "BGPPeer": {
        "PEERIP": lambda r: r.spec.peer_ip or r.spec.peer_selector,
        "NODE": lambda r: r.spec.node or r.spec.node_selector or "(global)",
        "ASN": lambda r: r.spec.as_number,
    },
    "BGPFilter": {
        "NUMEXPORTV4": lambda r: len(r.spec.export_v4 or ()),
        "NUMIMPORTV4": lambda r: len(r.spec.import_v4 or ()),
        "NUMEXPORTV6": lambda r: len(r.spec.export_v6 or ()),
        "NUMIMPORTV6": lambda r: len(r.spec.import_v6 or ()),
    },
    "BFDConfiguration": {
        "SELECTOR": lambda r: r.spec.node_selector or "all()",
        "INTERFACES": lambda r: _joined([one.match_pattern or "*" for one in r.spec.interfaces or ()]),
    },
    "WorkloadEndpoint": {
        "WORKLOAD": lambda r: r.spec.pod or r.spec.workload or r.spec.container_id,
        "NODE": lambda r: r.spec.node,
        "NETWORKS": lambda r: ",".join(r.spec.ip_networks),
        "INTERFACE": lambda r: r.spec.interface_name,
        "PROFILES": lambda r: ",".join(r.spec.profiles or ()),
    },
    "IPReservation": {"CIDRS": lambda r: _joined(r.spec.reserved_cidrs)},
    "IPAMConfiguration": {
        "STRICTAFFINITY": lambda r: r.spec.strict_affinity,
        "AUTOALLOCATEBLOCKS": lambda r: r.spec.auto_allocate_blocks,
        "MAXBLOCKSPERHOST": lambda r: r.spec.max_blocks_per_host,
    },
    "BlockAffinity": {
        "CIDR": lambda r: r.spec.cidr,
        "NODE": lambda r: r.spec.node,
        "STATE": lambda r: r.spec.state,
    },
}
"""Kind -> head -> what is below it in `get -o wide`, as calicoctl has them, after NAME, and after NAMESPACE with -a.

calicoctl has no table of block affinities, nor that of Calico without the commercial edition one of BFD's timers.
"""
NARROW = {
    "IPPool": ("NAME", "CIDR", "SELECTOR"),
    "Node": ("NAME",),
    "WorkloadEndpoint": ("WORKLOAD", "NODE", "NETWORKS", "INTERFACE"),
    "IPReservation": ("NAME",),
    "IPAMConfiguration": ("NAME", "STRICTAFFINITY", "AUTOALLOCATEBLOCKS"),
}
"""The heads of `get` without `-o wide`, where they are not all."""
