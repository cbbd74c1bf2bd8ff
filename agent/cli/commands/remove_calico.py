"""`tortie node remove-calico`: what Calico left on this machine, and its removal with a proof and an undo file.

Promises: shows only, unless told otherwise; the undo file is on the disk before anything goes; what is gone was read
back. Does not know: what is Calico's, how it is taken away (agent/felix/).
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path

from agent.cli.command import CommandFailed, reported
from agent.cli.connection import config
from agent.clock import SystemClock
from agent.felix import removal
from agent.felix.felix_rules import FilterRemains
from agent.felix.kernel_rules import read_filter_remains
from agent.felix.other_remains import other_remains
from agent.netlink.kernel_errors import KernelError
from agent.preflight.host_checks import FELIX
from agent.preflight.proc_scan import scan_processes
from agent.tables import ruled

STOPPED_FIRST = "stop it first, or it writes its rules again"


def remove_calico(arguments: argparse.Namespace) -> None:
    """Show what is left; with `--yes` take it away, with `--undo` put it back. Raises CommandFailed."""
    with reported(removal.RemovalFailed, KernelError, OSError):
        if arguments.undo:
            _put_back(Path(arguments.undo))
        elif arguments.yes:
            _remove(arguments)
        else:
            remains, sets = _read(), removal.calicos_sets()
            print(remains_text(remains, sets, tuple(other_remains())))


def _read() -> FilterRemains:
    return asyncio.run(read_filter_remains())


def _require_stopped() -> None:
    running = [process for process in scan_processes(Path("/proc")) if process.name in FELIX]
    if running:
        commands = " && ".join(process.stop_command for process in running)
        raise CommandFailed(f"{', '.join(map(str, running))} runs: {STOPPED_FIRST} ({commands})")


def _remove(arguments: argparse.Namespace) -> None:
    _require_stopped()
    remains, sets = _read(), removal.calicos_sets()
    if remains.unread:
        raise CommandFailed(f"nothing was removed, for not all can be read: {'; '.join(remains.unread)}")
    if not remains.tables and not sets:
        print("Calico left no rules and no sets here.")
        return
    stamp = SystemClock().wall().strftime("%Y%m%dT%H%M%SZ")
    path = Path(arguments.undo_file or Path(config(arguments).paths.state, f"calico-undo-{stamp}.txt"))
    with reported(removal.RemovalFailed, prefix="nothing was removed: "):
        removal.write_undo(path, removal.undo_sections(remains, sets))
    with reported(removal.RemovalFailed, prefix=f"not all was removed, {path} puts back what is gone: "):
        removal.remove(remains, sets)
    after, sets_after = _read(), removal.calicos_sets()
    if after.tables or after.unread or sets_after:
        left = [*map(str, after.tables), *after.unread, *sets_after]
        raise CommandFailed(f"still there: {', '.join(left)}; {path} puts back what is gone")
    for table in remains.tables:
        print(f"gone: {table}: {_counted(table.calicos_chains, table.calicos_rules)}")
    if sets:
        print(f"gone: {len(sets)} sets")
    print("read back: nothing of Calico's filters packets here.")
    print(f"`tortie node remove-calico --undo {path}` puts it back.")


def _put_back(path: Path) -> None:
    _require_stopped()
    removal.put_back(removal.read_undo(path), _read())
    print(f"{path} is in force again:")
    print(remains_text(_read(), removal.calicos_sets(), ()))


def _counted(chains: int, rules: int) -> str:
    return f"{chains} chains, and {rules} rules in chains of others"


def remains_text(remains: FilterRemains, sets: Sequence[str], others: Sequence[tuple[str, str]]) -> str:
    """What is left, for people."""
    lines: list[str] = []
    if remains.tables or sets:
        rows = [
            (
                table.origin,
                f"{table.family} {table.name}",
                str(table.calicos_chains),
                str(table.calicos_rules),
            )
            for table in remains.tables
        ]
        rows += [("ipset", f"{len(sets)} sets", "", "")] if sets else []
        lines.append(ruled(("WHERE", "TABLE", "CALICO'S CHAINS", "ITS RULES IN OTHERS' CHAINS"), rows))
        dropped = remains.dropped
        lines.append(
            f"New pods cannot speak: {dropped}." if dropped else "No rule drops all packets of a new pod."
        )
        lines.append("`tortie node remove-calico --yes` takes these away, and writes an undo file first.")
    elif not remains.unread:
        lines.append("Calico left no rules and no sets here.")
    lines += [f"not read: {why}" for why in remains.unread]
    if others:
        lines += ["", "Also of Calico's, and left where it is:", ruled(("WHAT", "MEANING"), others)]
    return "\n".join(lines)
