"""`tortie node status`, `addresses`, `checksystem`: what this node's agent sees, in calicoctl's form.

Promises: changes nothing, but for `reclaim`, `remove-calico`, `return-to-calico` and `takeover`; asks the running
agent, but for these, `checksystem` and `diags`.
Does not know: how the agent came to what it says.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from agent.cli.command import add_command, add_group, moment, reported
from agent.cli.commands.reclaim import EXAMPLES as RECLAIM_EXAMPLES
from agent.cli.commands.reclaim import run_reclaim
from agent.cli.connection import ask_agent, config, with_store
from agent.cli.living_nodes import FORCE_HELP
from agent.tables import ruled

if TYPE_CHECKING:
    from ipam.etcd.store import Store

EXAMPLES = """\
examples:
  tortie node status
  tortie node status --json
  tortie node addresses
  tortie lab exec node1 -- tortie node status

`status` ends with exit code 1 if there is a trouble: something wanted that is not in force.
"""
CHECK_EXAMPLES = """\
examples:
  tortie node checksystem
  tortie node checksystem -o json

Looks for what would stop pods from reaching each other, before or while the agent runs, and changes nothing. Every
finding has its evidence and the command that ends it. Exit code 1 with an error among them, 0 without.
"""


DIAGS_EXAMPLES = """\
examples:
  tortie node diags
  tortie node diags --output node1.tar.gz
"""
REMOVE_CALICO_EXAMPLES = """\
examples:
  tortie node remove-calico
  tortie node remove-calico --yes
  tortie node remove-calico --yes --undo-file calico-undo.txt
  tortie node remove-calico --undo calico-undo.txt

For a machine whose pods Calico had before: Felix, stopped, leaves its filter rules, and they drop the packets of every
pod that it did not know. Shows what is left, and changes nothing. With --yes the rules and sets go, after an undo file
was written, by default in /var/lib/tortie; what others have in the same tables stays. From then on Calico's policies do
not hold for the pods it started. Refused while Felix runs.
"""


RETURN_EXAMPLES = """\
examples:
  tortie node return-to-calico
  tortie node return-to-calico --yes

For a machine that calico-node is to have again, with its pods running. Shows what Calico could not live with, and
changes nothing; with --yes it goes: the nftables tables of Tortie's, which drop what pods send that Tortie does not
know, and Tortie's annotations on the Node resource. Routes, tunnels, endpoints and addresses stay, for they are in
Calico's form. Stop the agent first and start calico-node right afterwards: docs/migration.md has the order. Refused
while the agent runs.
"""


TAKEOVER_EXAMPLES = """\
examples:
  tortie node takeover
  tortie node takeover --from node2

The Node resource bears the id of the machine that registered it, and a second machine with its name takes no part. Run
this on the machine that is to be the node from now on: one that was installed anew, or that replaces one that is gone
for good. Should the other machine still run, it takes no part from then on, and its pods are cut off from other nodes.

With --from it is for a machine that was renamed, or whose host name has become a domain name with a reboot: what node
NAME has - record, blocks, endpoints, tunnel addresses, its BGPConfiguration and BGPPeers - bears this machine's present
name from then on, and its pods go on. Refused unless that record bears this machine's id.
"""


def add_parsers(subparsers: Any) -> None:
    """Add this module's commands."""
    verbs = add_group(subparsers, "node", "this node's agent")
    status = add_command(verbs, "status", "peers, datastore, kernel", run_node_status, EXAMPLES)
    status.add_argument("--json", action="store_true", help="everything the agent says")
    text = "the addresses that could be the node's, which is, and why not the others"
    add_command(verbs, "addresses", text, run_addresses, EXAMPLES)
    text = "what on this machine is in the way, with the fix"
    check = add_command(verbs, "checksystem", text, run_checksystem, CHECK_EXAMPLES)
    check.add_argument("-o", "--output", choices=("table", "json"), default="table")
    text = "make this machine the node of its name, in place of another machine"
    takeover = add_command(verbs, "takeover", text, run_takeover, TAKEOVER_EXAMPLES)
    takeover.add_argument(
        "--from",
        dest="older",
        metavar="NAME",
        help="what this machine was called before, and all that bears the name",
    )
    takeover.add_argument(
        "--force", action="store_true", help="though NAME's record does not bear this machine's id"
    )
    text = "give back all that a dead node had, with a file that undoes it"
    reclaim = add_command(verbs, "reclaim", text, run_reclaim, RECLAIM_EXAMPLES)
    reclaim.add_argument("name", nargs="?", metavar="NAME", help="the node")
    reclaim.add_argument("--dry-run", action="store_true", help="say what would go, and write nothing")
    reclaim.add_argument("--force", action="store_true", help=FORCE_HELP)
    reclaim.add_argument("--undo-file", metavar="FILE", help="where to write what undoes it; a new file")
    reclaim.add_argument("--undo", metavar="FILE", help="put back what this file holds")
    text = "what a stopped Calico left here; takes its rules away on request, with an undo file"
    remove = add_command(verbs, "remove-calico", text, run_remove_calico, REMOVE_CALICO_EXAMPLES)
    remove.add_argument("--yes", action="store_true", help="take rules and sets away")
    remove.add_argument("--undo-file", metavar="FILE", help="where to write what puts them back; a new file")
    remove.add_argument("--undo", metavar="FILE", help="put back what this file holds")
    text = "what of Tortie's a calico-node could not live with here; takes it away on request"
    back = add_command(verbs, "return-to-calico", text, run_return_to_calico, RETURN_EXAMPLES)
    back.add_argument("--yes", action="store_true", help="take it away")
    text = "one archive of kernel, agent, journal and settings for whoever was not there; secrets are removed"
    diags = add_command(verbs, "diags", text, run_diags, DIAGS_EXAMPLES)
    diags.add_argument("--output", metavar="FILE", help="default: tortie-diags-DATE-TIME.tar.gz here")


def run_diags(arguments: argparse.Namespace) -> None:
    """`tortie node diags`."""
    from agent.cli.commands.diags import collect_diags

    collect_diags(arguments)


def run_takeover(arguments: argparse.Namespace) -> None:
    """`tortie node takeover`."""
    from pathlib import Path

    from agent.node.machine import machine_id, machine_life
    from agent.node.takeover import take_over
    from ipam.failures import IpamError
    from ipam.model import NodeName

    settings = config(arguments)
    with reported(OSError):
        own = machine_id(settings.node.machine_id, Path(settings.paths.state))
        life = machine_life(Path(settings.paths.run))
    node = NodeName(settings.node_name)
    if arguments.older is not None:
        from agent.node.rename import rename_node

        older = NodeName(arguments.older)
        with reported(IpamError):
            done = with_store(
                arguments, lambda store: rename_node(store, older, node, own, life, force=arguments.force)
            )
        print(f"node {older} is node {node} now: {done.blocks} blocks, {done.endpoints} endpoints")
        print("".join(f"it is named in {key}\n" for key in done.settings), end="")
        return
    with reported(IpamError):
        before = with_store(arguments, lambda store: take_over(store, node, own, life))
    if before == own:
        print(f"node {node} is this machine already")
    else:
        print(f"node {node} is this machine now ({own}); before: {before or 'no machine was named'}")


def run_return_to_calico(arguments: argparse.Namespace) -> None:
    """`tortie node return-to-calico`."""
    from agent.configuration.config import ConfigError
    from agent.dataplane.kernel.linux import NetlinkKernel
    from agent.netlink.kernel_errors import KernelError
    from agent.service.return_to_calico import return_to_calico, what_would_go
    from ipam.model import NodeName

    settings = config(arguments)
    kernel = NetlinkKernel()

    async def work(store: Store) -> list[str]:
        if arguments.yes:
            return [done async for done in return_to_calico(kernel, store, settings)]
        return [each async for each in what_would_go(kernel, store, NodeName(settings.node_name))]

    try:
        with reported(ConfigError, KernelError, OSError):
            lines = with_store(arguments, work)
    finally:
        kernel.close()
    print("\n".join(lines) if lines else "nothing of Tortie's is here that Calico could not live with.")
    if lines and not arguments.yes:
        print("`tortie node return-to-calico --yes` takes these away.")


def run_remove_calico(arguments: argparse.Namespace) -> None:
    """`tortie node remove-calico`."""
    from agent.cli.commands.remove_calico import remove_calico

    remove_calico(arguments)


def run_checksystem(arguments: argparse.Namespace) -> None:
    """`tortie node checksystem`."""
    from agent.cli.commands.checksystem import check_system

    check_system(arguments)


def run_addresses(arguments: argparse.Namespace) -> None:
    """`tortie node addresses`."""

    rows = [
        ("*" if row["taken"] else "", row["interface"], row["address"], row["why"])
        for row in ask_agent(arguments, "addresses")
    ]
    print(ruled(("", "INTERFACE", "ADDRESS", "WHY"), rows))


def run_node_status(arguments: argparse.Namespace) -> None:
    """`tortie node status`; exit code 1 if there is a trouble."""
    import json
    import sys

    status = ask_agent(arguments, "status")
    print(json.dumps(status, indent=2) if arguments.json else node_status_text(status))
    if status["troubles"]:
        sys.exit(1)


def node_status_text(status: dict[str, Any]) -> str:
    """The agent's answer for people."""
    address = status["address"] or status.get("address6") or "no address yet"
    lines = [
        f"Tortie agent is running (pid {status['pid']}).",
        "",
        f"node       {status['node']}, {address} ({status['address_found_by'] or '?'})",
        f"datastore  {status['datastore']}{'' if status['in_sync'] else ' (not yet in sync)'}",
        f"pods       {status['pods']}{', mtu ' + str(status['mtu']) if status['mtu'] else ''}",
    ]
    lines += certificate_notes(status)
    lines += drain_notes(status)
    lines += trouble_notes(status)
    lines += filter_notes(status.get("workload_filter"))
    for version, sign in (("IPv4", "."), ("IPv6", ":")):
        lines += ["", f"{version} BGP status", *peers_of(status, version, sign)]
    return "\n".join(lines)


def trouble_notes(status: dict[str, Any]) -> list[str]:
    """What is wanted and not in force, what to do, and since when it is so."""
    if "trouble_list" not in status:  # an older agent's answer
        return [f"trouble    {text}" for text in status["troubles"]]
    return [
        f"trouble    {text} ({one['kind']}, since {moment(one['since'])})"
        for text, one in zip(status["troubles"], status["trouble_list"], strict=True)
    ]


def certificate_notes(status: dict[str, Any]) -> list[str]:
    """Until when the certificates are valid with which etcd is spoken to; none without TLS."""
    certificates = status.get("etcd", {}).get("certificates", {})
    return [f"           {file} is valid until {until[:10]}" for file, until in certificates.items()]


def peers_of(status: dict[str, Any], version: str, sign: str) -> list[str]:
    """The peers of one version of IP, recognised by the `sign` in their addresses, as calicoctl shows them."""

    rows = [
        (
            peer["address"],
            peer["type"],
            "up" if peer["state"] == "Established" else "start",
            moment(peer["since"]),
            peer["state"] if not peer["last_error"] else f"{peer['state']}: {peer['last_error']}",
        )
        for peer in status["peers"]
        if sign in peer["address"]
    ]
    if not rows:
        return [f"No {version} peers found."]
    return [ruled(("PEER ADDRESS", "PEER TYPE", "STATE", "SINCE", "INFO"), rows)]


def drain_notes(status: dict[str, Any]) -> list[str]:
    """That the node is drained, since when and why."""
    drained = status["drained"]
    if drained is None:
        return []
    how = "has left its peers" if status["has_left"] else "is leaving its peers"
    text = f": {drained['text']}" if drained["text"] else ""
    return [f"drained    {how}, since {moment(drained['since'])}{text}; tortie undrain ends it"]


def filter_notes(found: dict[str, Any] | None) -> list[str]:
    """Whether what workloads send is checked, and what was dropped; nothing of an agent that does not say."""
    if found is None:
        return []
    counts = ", ".join(f"{count} {reason}" for reason, count in found["dropped"].items())
    return [f"filter     {found['state']}{f'; packets dropped: {counts}' if counts else ''}"]
