"""`tortie ipam`: show, check, release, configure, in calicoctl's words and tables.

Promises: a repair or a release is one guarded transaction each, and what a repair replaced is in a file before it.
Does not know: the rules of allocation.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.cli.command import CommandFailed, add_command, add_group, add_output, reported
from agent.cli.connection import ask_agent, with_store
from agent.cli.living_nodes import FORCE_HELP, require_gone
from agent.tables import data

if TYPE_CHECKING:  # imported when a command runs, so that `tortie --help` is quick
    from ipam.check.audit import AuditFinding, IpamSnapshot
    from ipam.etcd.store import Store, Versioned
    from ipam.model import Address, HandleId

SHOW_EXAMPLES = """\
examples:
  tortie ipam show
  tortie ipam show --show-blocks
  tortie ipam show --ip 192.168.31.1
  tortie ipam show --show-configuration
  tortie ipam show --show-blocks -o json
"""
CHECK_EXAMPLES = """\
examples:
  tortie ipam check
  tortie ipam check -o report.json
  tortie ipam check --fix --undo-file undo.json

On a node it also asks the agent for the pods that live there: an older backup of etcd does not know them all.
"""
RELEASE_EXAMPLES = """\
examples:
  tortie ipam release --ip 192.168.31.1
  tortie ipam release --ip 192.168.31.1 --handle k8s-pod-network.0123abcd
  tortie ipam release --node node9

A node is released when its machine is gone for good: what still runs there would lose its addresses. A node that lives
is refused, and so is the address of a living node's tunnel, unless --force is given.
"""
CONFIGURE_EXAMPLES = """\
examples:
  tortie ipam configure --strictaffinity true --max-blocks-per-host 4
  tortie ipam configure --ip-cooldown-seconds 30
"""
ROOT = "/calico/"
"""Everything Calico's; one list of it is one moment."""


def add_parsers(subparsers: Any) -> None:
    """Add this module's commands."""
    commands = add_group(subparsers, "ipam", "addresses: show, check, release", metavar="COMMAND")
    show = add_command(commands, "show", "how full pools and blocks are", run_ipam_show, SHOW_EXAMPLES)
    show.add_argument("--show-blocks", action="store_true", help="blocks too")
    text = "addresses used outside their block's node"
    show.add_argument("--show-borrowed", action="store_true", help=text)
    show.add_argument("--show-configuration", action="store_true", help="the rules of allocation")
    show.add_argument("--ip", metavar="ADDRESS", help="who has this address")
    add_output(show)
    text = "find what is inconsistent; exit code 1 if anything is"
    check = add_command(commands, "check", text, run_ipam_check, CHECK_EXAMPLES)
    check.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the findings as JSON")
    check.add_argument("--fix", action="store_true", help="repair what the datastore itself proves")
    undo = Path("tortie-ipam-undo.json")
    check.add_argument("--undo-file", type=Path, default=undo, metavar="FILE", help="what --fix replaced")
    text = "give back an address, or all that a node that is gone held"
    release = add_command(commands, "release", text, run_ipam_release, RELEASE_EXAMPLES)
    release.add_argument("--ip", metavar="ADDRESS", action="append", default=[])
    release.add_argument("--handle", metavar="HANDLE", help="only if this handle holds it")
    release.add_argument("--node", metavar="NODE", help="everything of this node")
    release.add_argument("--force", action="store_true", help=FORCE_HELP)
    text = "change the rules of allocation"
    configure = add_command(commands, "configure", text, run_ipam_configure, CONFIGURE_EXAMPLES)
    configure.add_argument("--strictaffinity", choices=("true", "false"), help="never borrow addresses")
    configure.add_argument(
        "--auto-allocate-blocks", choices=("true", "false"), help="nodes claim blocks themselves"
    )
    configure.add_argument("--max-blocks-per-host", type=int, metavar="N", help="0: the default of 20")
    configure.add_argument("--ip-cooldown-seconds", type=int, metavar="N", help="rest of a released address")


def run_ipam_show(arguments: argparse.Namespace) -> None:
    """`tortie ipam show`."""
    import asyncio

    from agent.cli import ipam_tables as views
    from agent.datastore.writing.inventory import inventory
    from ipam.allocation.ipam_config import read_config
    from ipam.check.audit import decode_snapshot
    from ipam.failures import Malformed
    from ipam.keys import IPAM_CONFIG

    wanted = _address(arguments.ip) if arguments.ip else None
    stored = with_store(arguments, lambda store: store.list(ROOT)).values
    seen, facts = decode_snapshot(stored), inventory(stored)
    for sentence in (*(finding.text for finding in seen.findings), *facts.damaged.values()):
        print(f"tortie: {sentence}", file=sys.stderr)
    if wanted is not None:
        in_kernel = asyncio.run(_used_here())
        facts.in_use = {**(in_kernel or {}), **facts.in_use}
        view = views.address_view(seen, facts, wanted)
    elif arguments.show_configuration:
        with reported(Malformed):
            view = views.configuration_view(read_config(stored.get(IPAM_CONFIG)))
    elif arguments.show_borrowed:
        view = views.borrowed_view(seen)
    else:
        view = views.pools_view(seen, facts, blocks=arguments.show_blocks)
        for sentence in views.pool_notes(facts):
            print(f"tortie: {sentence}", file=sys.stderr)
    print(view.text if arguments.output == "table" else data(view.rows, arguments.output))


def _address(text: str) -> Address:
    from ipaddress import ip_address

    with reported(ValueError, prefix="--ip: "):
        return ip_address(text)


def living_pods(arguments: argparse.Namespace) -> dict[Address, tuple[HandleId, str]]:
    """The pods that live on this machine, by address, as its agent knows them; none where no agent answers."""
    from ipaddress import ip_address

    from ipam.model import HandleId

    try:
        rows = ask_agent(arguments, "living")
    except CommandFailed:
        return {}
    return {
        ip_address(text): (HandleId(row["handle"]), str(row["pod"]))
        for row in rows
        for text in row["addresses"]
    }


def found_in(
    stored: Mapping[str, Versioned],
    living: Mapping[Address, tuple[HandleId, str]],
    in_kernel: Mapping[Address, str] | None,
) -> tuple[IpamSnapshot, tuple[AuditFinding, ...]]:
    """Everything inconsistent in a copy of the datastore, and with this machine: its living pods, its kernel."""
    from agent.datastore.writing.inventory import inventory
    from ipam.check.audit import AuditFinding, audit, decode_snapshot

    seen, facts = decode_snapshot(stored), inventory(stored)
    pools = [record.pool for record in facts.pools]
    damaged = [AuditFinding("damaged", key, sentence) for key, sentence in facts.damaged.items()]
    unknown = (
        facts.unknown_users if in_kernel is not None else {*facts.unknown_users, "this machine's kernel"}
    )
    found = audit(
        seen,
        pools,
        facts.in_use,
        living,
        unknown_users=unknown,
        in_kernel=in_kernel or {},
        tunnels=facts.tunnels,
        of_endpoints=facts.of_endpoints,
    )
    return seen, (*damaged, *found)


async def _used_here() -> Mapping[Address, str] | None:
    """What this machine's kernel shows to be used, the only proof where nothing stored names it; None: unreadable."""
    from agent.dataplane.inputs.used_addresses import used_addresses
    from agent.dataplane.kernel.linux import NetlinkKernel
    from agent.netlink.kernel_errors import KernelError

    try:
        kernel = NetlinkKernel()
        try:
            return used_addresses((await kernel.links()).values(), (await kernel.routes()).values())
        finally:
            kernel.close()
    except (KernelError, OSError) as error:
        print(f"tortie: what this machine's kernel uses is not known: {error}", file=sys.stderr)
        return None


def run_ipam_check(arguments: argparse.Namespace) -> None:
    """`tortie ipam check`."""
    import asyncio

    before = living_pods(arguments)
    stored = with_store(arguments, lambda store: store.list(ROOT)).values
    after = living_pods(arguments) if before else {}
    # What came or went meanwhile is no inconsistency.
    living = {address: who for address, who in before.items() if after.get(address) == who}
    seen, findings = found_in(stored, living, asyncio.run(_used_here()))
    problems = [finding for finding in findings if not finding.is_harmless]
    for finding in findings:
        print(f"{finding.kind}: {finding.text}{' (repairable)' if finding.repairable else ''}")
    if arguments.output is not None:
        _write(arguments.output, {"findings": [finding.as_json() for finding in findings]})
    left = len(problems)
    if arguments.fix and any(finding.repairable for finding in findings):
        fixed = with_store(arguments, lambda store: mended(store, seen, findings, arguments.undo_file))
        print(f"{len(fixed)} repaired; what stood there before is in {arguments.undo_file}")
        left -= sum(not finding.is_harmless for finding in fixed)
    print(f"Check complete; found {len(problems)} problems.")
    if left:
        raise CommandFailed(f"{left} problems remain")


async def mended(
    store: Store, seen: IpamSnapshot, findings: Sequence[AuditFinding], undo_file: Path
) -> list[AuditFinding]:
    """Do the repairs, each under its guards, and answer which; what stood there is on disk before the first one."""
    from ipam.check.audit import repairs
    from ipam.etcd.store import Committed

    planned = list(repairs(seen, findings))
    _write(undo_file, {"repairs": [repair.as_json() for repair in planned]}, fresh=True)
    done = []
    for repair in planned:
        if isinstance(await store.commit(*repair.transaction.guards_and_operations), Committed):
            done.append(repair.finding)
        else:
            print(f"not repaired, it has changed meanwhile: {repair.finding.text}")
    return done


def _write(path: Path, raw: object, *, fresh: bool = False) -> None:
    try:
        with path.open("x" if fresh else "w") as file:
            file.write(json.dumps(raw, indent=2) + "\n")
    except OSError as error:
        raise CommandFailed(f"{path}: cannot be written: {error.strerror}") from error


def run_ipam_release(arguments: argparse.Namespace) -> None:
    """`tortie ipam release`."""
    from agent.clock import SystemClock
    from ipam.allocation.allocator import Allocator
    from ipam.allocation.release import GuardedAddress
    from ipam.model import HandleId

    if bool(arguments.ip) == bool(arguments.node):
        raise CommandFailed("name either --ip ADDRESS or --node NODE")
    if arguments.node:
        _release_node(arguments)
        return
    handle = HandleId(arguments.handle) if arguments.handle else None
    wanted = [GuardedAddress(_address(text), handle) for text in arguments.ip]
    if not arguments.force:
        require_gone(arguments, _bearers(arguments, [one.address for one in wanted]))

    async def work(store: Store) -> None:
        done = await Allocator(store, SystemClock().wall, list).release_addresses(wanted)
        for address in done.released:
            print(f"Successfully released IP address {address}")
        for address in done.unallocated:
            print(f"IP address {address} is not assigned")

    with_store(arguments, work)


def _bearers(arguments: argparse.Namespace, addresses: Sequence[Address]) -> list[str]:
    """The nodes whose tunnels have one of these addresses."""
    from agent.datastore.state_cache import NODES
    from agent.datastore.writing.inventory import inventory

    tunnels = inventory(with_store(arguments, lambda store: store.list(NODES)).values).tunnels
    return sorted({name for one in addresses for name in tunnels.get(one, ())})


def _release_node(arguments: argparse.Namespace) -> None:
    from agent.clock import SystemClock
    from ipam.allocation.allocator import Allocator
    from ipam.model import NodeName

    require_gone(arguments, [arguments.node])

    async def work(store: Store) -> None:
        allocator = Allocator(store, SystemClock().wall, list)
        done = await allocator.release_node(NodeName(arguments.node))
        for address in done.addresses:
            print(f"Successfully released IP address {address}")
        if not done.addresses:
            print(f"node {arguments.node} held no address; blocks that it claimed are free now")
        for why in done.unreadable:
            print(f"left as it is: {why}")

    with_store(arguments, work)


def run_ipam_configure(arguments: argparse.Namespace) -> None:
    """`tortie ipam configure`."""
    from dataclasses import replace

    from agent.cli.ipam_tables import configuration_view
    from ipam.allocation.ipam_config import configure

    changes = {
        "strict_affinity": _truth(arguments.strictaffinity),
        "auto_allocate_blocks": _truth(arguments.auto_allocate_blocks),
        "blocks_per_node": arguments.max_blocks_per_host,
        "cooldown_seconds": arguments.ip_cooldown_seconds,
    }
    given = {name: value for name, value in changes.items() if value is not None}
    if not given:
        raise CommandFailed("name what to change, such as --strictaffinity true")
    rules = with_store(arguments, lambda store: configure(store, lambda now: replace(now, **given)))
    print(configuration_view(rules).text)


def _truth(word: str | None) -> bool | None:
    return None if word is None else word == "true"
