"""Takes the agent off a machine, and proves that nothing of it is left.

Promises: pods that are still attached stop it, unless they are to lose their network; routes, tunnels and tables go
only when they are ours by the agent's own rules; sysctls get the values they had before the first installation;
settings that somebody filled in stay unless purged; the module ipip, whose tunl0 nobody can delete, is unloaded when it
came after the record and serves nobody else; the proof compares everything with the record of that time.
Does not know: what the datastore keeps of this node.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agent.cni.plugin.plugin_install import InstallFailed as CniFailed
from agent.cni.plugin.plugin_install import PluginPaths
from agent.cni.plugin.plugin_install import uninstall as remove_plugins
from agent.configuration.config import Config, ConfigError
from agent.dataplane.kernel.calico_names import OUR_TUNNELS, TUNL0, WORKLOAD_PREFIX
from agent.dataplane.kernel.dataplane_objects import Masquerade
from agent.dataplane.kernel.ownership import Ownership
from agent.dataplane.kernel.protocol import Kernel
from agent.netlink import sysctl
from agent.netlink.kernel_errors import KernelError
from agent.netlink.objects import Link, Sysctl, TunnelKind
from agent.service import host_snapshot, layout
from agent.service.install import is_active
from agent.service.start import take_agent_lock

STOP_SECONDS = 60.0
UNLOAD_SECONDS = 30.0
OLD_TUNL0 = re.compile(rf"\d+: {TUNL0}[@:]")
"""A line of the record by which tunl0 was there before."""
MOST_COLLECTIONS, ROUTES_PER_COLLECTION = 50, 100
MOST_DIFFERENCES = 20
"""Lines printed per kind of thing that is not as before."""


class UninstallFailed(Exception):
    """One sentence: what stands in the way, what to do."""


@dataclass(frozen=True, slots=True)
class UninstallOptions:
    """How much goes."""

    pods_too: bool = False
    """Remove the interfaces of pods that are still attached."""
    purge: bool = False
    """Settings and secrets as well."""
    packaged: bool = False
    """A package manager removes the files it placed."""


def stop(root: Path) -> Iterator[str]:
    """Leave the peers, stop the agent, and have neither start again."""
    if not Path("/run/systemd/system").is_dir():
        return
    # The stop of the first says farewell through the second.
    for unit in (layout.DRAIN_UNIT, layout.AGENT_UNIT, layout.BFD_UNIT):
        if is_active(unit):
            _systemctl("stop", unit)
            yield f"{unit}: stopped"
    enabled = [unit for unit in layout.UNITS if (root / layout.WANTS / unit).is_symlink()]
    if enabled:
        _systemctl("disable", *enabled)
        yield f"{' and '.join(enabled)}: disabled"


def _systemctl(*words: str) -> None:
    done = subprocess.run(
        ["systemctl", *words], capture_output=True, text=True, check=False, timeout=STOP_SECONDS
    )
    if done.returncode != 0:
        raise UninstallFailed(f"systemctl {' '.join(words)}: {done.stderr.strip()}")


async def uninstall_service(
    kernel: Kernel, config: Config, options: UninstallOptions, root: Path = Path("/")
) -> AsyncIterator[str]:
    """Everything, in order; yields what was done. Raises UninstallFailed."""
    record = read_record(root)
    try:
        pods = await attached(kernel)
        if pods and not options.pods_too:
            raise UninstallFailed(
                f"pods are attached ({', '.join(pods[:3])}{', ...' if len(pods) > 3 else ''}, {len(pods)} in all); "
                "remove them first, or take their network away with --pods-too"
            )
        for done in stop(root):
            yield done
        run = Path(config.paths.run)
        lock = take_agent_lock(run) if run.is_dir() else None
        for done in await clear_kernel(kernel, config):
            yield done
        if is_ipip_superfluous(record, await kernel.links()):
            yield unload_ipip()
        for done in (*restore_sysctls(record), *remove_files(root, record, options)):
            yield done
        if lock is not None:
            os.close(lock)
        if not options.packaged and Path("/run/systemd/system").is_dir():
            _systemctl("daemon-reload")
        name = config.node_name
        yield f"the datastore keeps node {name} and its addresses; elsewhere: tortie ipam release --node {name}"
        for done in compare_with_record(record, root):
            yield done
    except (KernelError, CniFailed, ConfigError, host_snapshot.SnapshotFailed, OSError) as error:
        raise UninstallFailed(str(error)) from error


async def attached(kernel: Kernel) -> list[str]:
    """The interfaces of pods."""
    return sorted(name for name in await kernel.links() if name.startswith(WORKLOAD_PREFIX))


def _delete_link(name: str) -> None:
    words = ["ip", "link", "delete", name]
    subprocess.run(words, check=False, capture_output=True, timeout=STOP_SECONDS)


async def clear_kernel(kernel: Kernel, config: Config) -> list[str]:
    """Remove every kernel object of ours. Raises UninstallFailed, KernelError."""
    done: list[str] = []
    for name in await attached(kernel):
        _delete_link(name)
        done.append(f"interface {name}: removed")
    marks = config.routes
    ownership = Ownership(marks.learned, marks.blackhole, marks.datastore, marks.tunnel, marks.workload)
    routes = [route for route in (await kernel.routes()).values() if ownership.is_ours(route)]
    refused = await kernel.remove_routes(routes)
    if refused:
        raise UninstallFailed(f"{len(refused)} routes stay; the first: {refused[0].what}: {refused[0].why}")
    done.append(f"routes: {len(routes)} removed")
    for _ in range(min(MOST_COLLECTIONS, 1 + len(routes) // ROUTES_PER_COLLECTION)):
        await kernel.routes()  # each reading takes nexthop objects away that no route refers to any more
    for name in sorted(OUR_TUNNELS & (await kernel.tunnels()).keys()):
        await kernel.remove_tunnel(name)
        done.append(f"tunnel {name}: removed")
    with suppress(KernelError):  # no nftables in this kernel: no table of ours either
        if await kernel.masquerade() is not None:
            await kernel.put_masquerade(Masquerade())
            done.append("nftables: table removed")
        if await kernel.workload_filter() is not None:
            await kernel.put_workload_filter(None, None)
            done.append("nftables: workload filter removed")
    return done


def is_ipip_superfluous(before: host_snapshot.Snapshot, links: Mapping[str, Link]) -> bool:
    """Whether the module came after the first installation and serves nobody else in this namespace."""
    if "links" not in before or any(OLD_TUNL0.match(line) for line in before["links"]):
        return False
    return [name for name, link in links.items() if link.kind == TunnelKind.IPIP.value] == [TUNL0]


def unload_ipip() -> str:
    """Unload the module; what came of it, in a sentence. A kernel that has it built in keeps its tunl0."""
    program = shutil.which("modprobe")
    if program is None:
        return f"{TUNL0}: stays, down and bare: there is no modprobe to unload ipip with"
    words = [program, "-r", "ipip"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=UNLOAD_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{TUNL0}: stays, down and bare: modprobe -r ipip: {error}"
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        return f"{TUNL0}: stays, down and bare: {said[-1] if said else 'modprobe -r ipip failed'}"
    return f"module ipip: unloaded, and with it {TUNL0}, which was not here before"


def restore_sysctls(record: host_snapshot.Snapshot) -> Iterator[str]:
    """Set what the agent, or the kernel on its behalf, has changed on the machine's own interfaces."""
    for name, value in host_snapshot.sysctls_to_restore(record).items():
        if sysctl.read(name) not in (value, None):
            why = sysctl.write(Sysctl(name, value))
            yield why or f"{name}: {value} again"


def remove_files(root: Path, record: host_snapshot.Snapshot, options: UninstallOptions) -> Iterator[str]:
    """Remove what was placed, then the directories that were not there before. Raises CniFailed, OSError."""
    yield from remove_plugins(PluginPaths())
    if not options.packaged:
        for target in (*(placed.target for placed in layout.FILES), *layout.COMMANDS):
            path = root / target
            if path.is_symlink() or path.exists():
                path.unlink()
                yield f"{path}: removed"
    for path in (root / layout.STATE, root / layout.RUN, root / layout.HOME):
        if path.exists():
            shutil.rmtree(path)
            yield f"{path}: removed"
    yield from _remove_settings(root, options)
    were = set(record.get("files", ()))
    for directory in layout.directories() if record else ():
        path = root / directory
        if str(directory) not in were and path.is_dir() and not os.listdir(path):
            path.rmdir()
            yield f"{path}: removed"


def _remove_settings(root: Path, options: UninstallOptions) -> Iterator[str]:
    configuration, settings = root / layout.CONFIGURATION, root / layout.SETTINGS
    if options.purge and configuration.exists():
        shutil.rmtree(configuration)
        yield f"{configuration}: removed"
        return
    if settings.exists() and settings.read_text() == layout.SKELETON and not options.packaged:
        settings.unlink()
        yield f"{settings}: removed, nobody had filled it in"
    with suppress(OSError):
        (configuration / "secrets").rmdir()
        configuration.rmdir()
    if configuration.exists():
        yield f"{configuration}: stays; --purge removes it"


def read_record(root: Path) -> host_snapshot.Snapshot:
    """What the machine was like; empty when nobody wrote it down."""
    try:
        found = json.loads((root / layout.RECORD).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return {str(what): [str(line) for line in lines] for what, lines in found.items()}


def compare_with_record(record: host_snapshot.Snapshot, root: Path) -> Iterator[str]:
    """One line for each kind of thing that is as before, and the differences of the others."""
    if not record:
        yield "there is no record of what the machine was like before: nothing to compare with"
        return
    found = host_snapshot.snapshot_differences(record, host_snapshot.take_snapshot(root))
    for what, lines in record.items():
        if what not in found:
            yield f"{what}: as before ({len(lines)} lines compared)"
            continue
        yield f"{what}: not as before; since then, by others or left on purpose:"
        yield from (f"  {line}" for line in found[what][:MOST_DIFFERENCES])
        if len(found[what]) > MOST_DIFFERENCES:
            yield f"  and {len(found[what]) - MOST_DIFFERENCES} more"
