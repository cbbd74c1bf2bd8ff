"""Puts the agent on a machine: a virtual environment of its own, unit files, a skeleton of settings; or a newer one.

Promises: runs with nothing but Python and iproute2, from a wheel that is not installed; what the machine was like is
written down before the first file is; every file and the link to the environment in use change by one rename, so an
agent that starts in that moment is the old or the new one; settings are never overwritten; an upgrade restarts the
agent, and its routes, pods and the peers' routes to it stay. Does not know: how it is removed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files as packaged
from pathlib import Path

from agent.durable_files import put_file
from agent.service import host_snapshot, install_flags, layout

WHEEL = re.compile(r"tortie-([^-]+)-py3-none-any\.whl")
STEP_SECONDS = 600.0
INSTALLED_VERSIONS = 2
"""The one in use and the one before it, whose process may still run."""
COMPLETE = ".complete"
"""The name of an empty file in an environment that was made to its end."""


class ServiceInstallFailed(Exception):
    """One sentence: what stands in the way, what to do."""


@dataclass(frozen=True, slots=True)
class InstallOptions:
    """How to install."""

    wheels: Path
    online: bool = False
    """Dependencies may come from the package index."""
    packaged: bool = False
    """A package manager placed the files: only the environment and the record are ours to make."""
    start: bool = False
    """Enable the service, and start it now."""


def install_options(arguments: argparse.Namespace) -> InstallOptions:
    """The flags' values."""
    return InstallOptions(arguments.wheels, arguments.online, arguments.packaged, arguments.start)


def install_service(options: InstallOptions) -> Iterator[str]:
    """Install or upgrade; yields what was done, a phrase each. Raises ServiceInstallFailed."""
    if os.geteuid() != 0:
        raise ServiceInstallFailed("installing needs root")
    root = Path("/")
    wheel = find_wheel(options.wheels)
    try:
        yield _record(root)
        environment = root / layout.HOME / environment_name(wheel)
        yield _environment(environment, wheel, options)
        if not options.packaged:
            yield from _place(root)
        yield _settings(root)
        _link(root / layout.CURRENT, environment.name)
        yield f"{root / layout.CURRENT}: to {environment.name}"
        yield from _prune(root)
        yield from _reload_programs(options)
    except OSError as error:
        raise ServiceInstallFailed(f"{error.filename or root}: {error.strerror}") from error
    except host_snapshot.SnapshotFailed as error:
        raise ServiceInstallFailed(str(error)) from error


def find_wheel(directory: Path) -> Path:
    """The one wheel of ours in a directory. Raises ServiceInstallFailed."""
    found = sorted(path for path in directory.glob("tortie-*.whl") if WHEEL.fullmatch(path.name))
    if len(found) != 1:
        what = "no wheel of tortie" if not found else f"{len(found)} wheels of tortie"
        raise ServiceInstallFailed(
            f"{directory}: {what}; name a directory with one by --wheels (make wheel makes it)"
        )
    return found[0].resolve()


def environment_name(wheel: Path) -> str:
    """A name for an environment made of this wheel with this Python."""
    version = WHEEL.fullmatch(wheel.name)
    assert version is not None
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()[:10]
    return f"{version[1]}-{digest}-py{sys.version_info.major}.{sys.version_info.minor}"


def _record(root: Path) -> str:
    path = root / layout.RECORD
    if path.exists():
        return f"{path}: stands already"
    found = json.dumps(host_snapshot.take_snapshot(root), indent=1).encode()
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    put_file(path, found, 0o600)
    return f"{path}: written, what the machine is like without us"


def _environment(environment: Path, wheel: Path, options: InstallOptions) -> str:
    if (environment / COMPLETE).exists():
        return f"{environment}: stands already"
    shutil.rmtree(environment, ignore_errors=True)
    environment.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    _run([sys.executable, "-m", "venv", str(environment)], "apt install python3-venv")
    pip = [str(environment / "bin/python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    source = ["--find-links", str(options.wheels)] + ([] if options.online else ["--no-index"])
    _run(
        [*pip, "--no-cache-dir", *source, str(wheel)],
        "put the dependencies' wheels beside it, or use --online",
    )
    (environment / COMPLETE).touch()
    return f"{environment}: made"


def _run(words: Sequence[str], remedy: str) -> None:
    """Raises ServiceInstallFailed with the program's last line."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=STEP_SECONDS)
    except subprocess.TimeoutExpired:
        raise ServiceInstallFailed(f"{words[0]}: no end after {STEP_SECONDS:g} s") from None
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "failed").splitlines()[-1]
        raise ServiceInstallFailed(f"{' '.join(words[:4])}: {said} ({remedy})")


def unit_file(source: str) -> bytes:
    """A file of systemd/: in the wheel, or beside this program's checkout."""
    inside = packaged("agent.service") / "systemd" / source
    if inside.is_file():
        return inside.read_bytes()
    return (Path(__file__).parent.parent.parent / "systemd" / source).read_bytes()


def _place(root: Path) -> Iterator[str]:
    for placed in layout.FILES:
        path = root / placed.target
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        done = put_file(path, unit_file(placed.source), 0o644)
        yield f"{path}: {'written' if done else 'stands already'}"
    for link, target in layout.COMMANDS.items():
        path = root / link
        if path.exists() and not path.is_symlink():
            raise ServiceInstallFailed(f"{path} is somebody else's program; move it")
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _link(path, str(target))
        yield f"{path}: to {target}"


def _settings(root: Path) -> str:
    path = root / layout.SETTINGS
    if path.exists():
        return f"{path}: left as it is"
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    put_file(path, layout.SKELETON.encode(), 0o644)
    return f"{path}: written, to be filled in"


def _link(path: Path, target: str) -> None:
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.replace(path)


def _prune(root: Path) -> Iterator[str]:
    current = (root / layout.CURRENT).resolve()
    versions = [path for path in (root / layout.HOME).iterdir() if path.is_dir() and not path.is_symlink()]
    others = sorted((path for path in versions if path != current), key=lambda path: path.stat().st_mtime)
    for path in others[: -(INSTALLED_VERSIONS - 1)]:
        shutil.rmtree(path)
        yield f"{path}: removed"


def _reload_programs(options: InstallOptions) -> Iterator[str]:
    """Let the running programs see the new files."""
    if not Path("/run/systemd/system").is_dir():
        yield "systemd does not run here: nothing is started"
        return
    for words in reload_commands():
        said = subprocess.run(words, capture_output=True, text=True, check=False, timeout=STEP_SECONDS)
        if said.returncode != 0:
            yield f"{' '.join(words)}: {said.stderr.strip()}"
    if is_active("systemd-networkd.service"):
        yield "systemd-networkd reads networkd.conf.d when it starts: systemctl restart systemd-networkd, once"
    if options.packaged and is_active(layout.AGENT_UNIT):
        return  # the package manager restarts it, by its own rules
    running = is_active(layout.AGENT_UNIT)
    if options.start:
        _run(["systemctl", "enable", *layout.UNITS], "see: systemctl status")
    if running or options.start:
        verb = "restart" if running else "start"
        _run(["systemctl", verb, layout.AGENT_UNIT], f"see: journalctl -u {layout.AGENT_UNIT}")
        yield f"{layout.AGENT_UNIT}: {verb}ed"
    else:
        yield f"fill in {Path('/') / layout.SETTINGS}, then: systemctl enable --now {layout.AGENT_UNIT}"
        yield "and for a container runtime: tortie cni install"


def is_active(unit: str) -> bool:
    """Whether a unit is up, or about to be."""
    words = ["systemctl", "is-active", "--quiet", unit]
    return subprocess.run(words, capture_output=True, check=False, timeout=STEP_SECONDS).returncode == 0


def reload_commands() -> Iterator[list[str]]:
    """The commands by which the programs that run here take the files into account."""
    yield ["systemctl", "daemon-reload"]
    yield ["systemd-tmpfiles", "--create", "tortie.conf"]
    if is_active("systemd-udevd.service"):
        yield ["udevadm", "control", "--reload"]
    if is_active("systemd-networkd.service"):
        yield ["networkctl", "reload"]
    if is_active("NetworkManager.service"):
        yield ["nmcli", "general", "reload", "conf"]


def main() -> None:
    """`python3 -m agent.service.install`, for a machine where nothing is installed yet."""
    found = argparse.ArgumentParser(
        prog="tortie install",
        epilog=install_flags.INSTALL_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    install_flags.add_install_flags(found)
    try:
        for done in install_service(install_options(found.parse_args())):
            sys.stdout.write(f"{done}\n")
    except ServiceInstallFailed as error:
        sys.exit(f"tortie install: {error}")


if __name__ == "__main__":
    main()
