"""`tortie node checksystem`: preflight on this machine, as a table of findings or as JSON.

Promises: changes nothing; exit code 1 with an error among the findings.
Does not know: what is good or bad (preflight does).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace

from agent.cli.command import CommandFailed
from agent.cli.connection import config, with_store
from agent.configuration.config import Config, EtcdSettings
from agent.dataplane.kernel.linux import NetlinkKernel
from agent.datastore.resources.schema import value_at
from agent.datastore.storage_layout import KIND_PREFIXES
from agent.datastore.writing.inventory import inventory
from agent.preflight.findings import findings
from agent.preflight.host_facts import HostFacts, HostFinding, Severity
from agent.preflight.host_reader import read_host, with_skew
from ipam.etcd.store import Store, Versioned
from ipam.failures import Unreadable
from ipam.stored_json import read_stored, stored_object

PASSWORDS = {"BGPConfiguration": ("spec", "nodeMeshPassword"), "BGPPeer": ("spec", "password")}
"""Kind -> where it names a password."""


def check_system(arguments: argparse.Namespace) -> None:
    """Read the host's facts, print the findings; exit code 1 with an error among the findings."""
    settings = config(arguments)
    facts = with_skew(
        with_cluster(asyncio.run(_read(settings)), arguments), settings.etcd.endpoints, tls(settings.etcd)
    )
    found = findings(facts)
    print(as_json(found) if arguments.output == "json" else findings_text(found))
    if any(one.severity is Severity.ERROR for one in found):
        sys.exit(1)


async def _read(settings: Config) -> HostFacts:
    kernel = NetlinkKernel()
    try:
        return await read_host(kernel, settings)
    finally:
        kernel.close()


def with_cluster(facts: HostFacts, arguments: argparse.Namespace) -> HostFacts:
    """The facts with the cluster's pools and how many BGP peers it has, or why they are not known."""
    try:
        stored = with_store(arguments, _of_cluster)
    except CommandFailed as failure:
        return replace(facts, pools_unknown=str(failure))
    nodes, peers = (len(stored[kind]) for kind in ("Node", "BGPPeer"))
    return replace(
        facts,
        pools=tuple(record.pool for record in inventory(stored["IPPool"]).pools),
        bgp_peers=max(nodes - 1, 0) + peers,
        bgp_passwords=any(
            _says(value, path) for kind, path in PASSWORDS.items() for value in stored[kind].values()
        ),
    )


async def _of_cluster(store: Store) -> dict[str, Mapping[str, Versioned]]:
    kinds = ("IPPool", "Node", *PASSWORDS)
    return {kind: (await store.list(KIND_PREFIXES[kind])).values for kind in kinds}


def _says(value: Versioned, path: tuple[str, ...]) -> bool:
    """Whether a resource has something there; one that cannot be read has not."""
    with suppress(Unreadable):
        return value_at(read_stored(value, stored_object), path) is not None
    return False


def tls(etcd: EtcdSettings) -> ssl.SSLContext | None:
    """For asking a member of etcd for its time; None where no certificate is needed or one cannot be read."""
    if not etcd.ca_file:
        return None
    try:
        context = ssl.create_default_context(cafile=etcd.ca_file)
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # as the agent's connections; Python 3.13 sets it
        if etcd.cert_file:
            context.load_cert_chain(etcd.cert_file, etcd.key_file)
    except (OSError, ssl.SSLError):
        return None  # said by the attempt to read the pools
    return context


def as_json(found: Sequence[HostFinding]) -> str:
    """For programs."""
    return json.dumps([{**asdict(one), "severity": one.severity.name.lower()} for one in found], indent=2)


def findings_text(found: Sequence[HostFinding]) -> str:
    """For people: the finding, then what shows it and what ends it, for a command line must stay whole to be copied."""
    if not found:
        return "nothing is in the way"
    lines = []
    for one in found:
        lines += [
            f"{one.severity.name:<8} {one.what}",
            f"         seen: {one.evidence}",
            f"         fix:  {one.fix}",
        ]
    counts = ", ".join(
        f"{number} {severity.name.lower()}{'s' if number != 1 else ''}"
        for severity in Severity
        if (number := sum(one.severity is severity for one in found))
    )
    return "\n".join([*lines, "", counts])
