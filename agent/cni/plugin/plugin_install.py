"""Puts the plugins and the network's configuration where container runtimes look for them; removes them again.

Promises: a file is replaced by one rename, so a runtime that starts the plugin in that moment runs the old or the new
one; the configuration is written last, when the plugins answer, and one that somebody wrote or changed stays as it is.
Asked again, nothing is written that is there already. Does not know: the agent, which need not run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.durable_files import put_file
from agent.foreign_files import read_file

SOURCE = Path(__file__).parent
PLUGINS = ("tortie", "tortie-ipam")
CONFLIST = "10-tortie.conflist"
CONFIGURATION_ENDS = (".conf", ".conflist", ".json")
"""What runtimes read (libcni.ConfFiles)."""
MOST_CONFIGURATIONS = 1000
COMPILERS = ("cc", "gcc", "clang")
COMPILE_SECONDS = 60.0
MOST_PLUGIN_BYTES, MOST_CONFLIST_BYTES = 256 << 20, 1 << 20
"""Of what is there already; Calico's plugin has some ten megabytes."""
ANSWER_SECONDS = 10.0
DEFAULT_SOCKET, DEFAULT_STATE = "/run/tortie/cni.sock", "/var/lib/tortie"
MARK = b"TORTIE_CNI_SOCKET"
"""In each of our plugins and in no other: what has it may be replaced and removed."""


class InstallFailed(Exception):
    """One sentence: what stands in the way, and what to do."""


@dataclass(frozen=True, slots=True)
class PluginPaths:
    """Directories of the container runtime, and the agent's paths that are written into the plugins."""

    plugins: Path = Path("/opt/cni/bin")
    configuration: Path = Path("/etc/cni/net.d")
    socket: Path = Path(DEFAULT_SOCKET)
    state: Path = Path(DEFAULT_STATE)


def install(paths: PluginPaths, shim: str, network: str, *, replace: bool = False) -> Iterator[str]:
    """Install; yields what was done, a phrase each. `shim` is `c`, `python`, or `auto`: C where a compiler is.

    Raises InstallFailed.
    """
    content, kind = _plugin(paths, shim)
    try:
        paths.plugins.mkdir(mode=0o755, parents=True, exist_ok=True)
        for name in PLUGINS:
            path = paths.plugins / name
            if path.exists() and not _is_ours(path):
                raise InstallFailed(f"{path} is somebody else's plugin; move it, or choose another --bin-dir")
            done = put_file(path, content, 0o755)
            yield f"{path}: {'written' if done else 'stands already'} ({kind})"
            _must_answer(path)
        paths.configuration.mkdir(mode=0o755, parents=True, exist_ok=True)
        yield _configure(paths, network, replace=replace)
    except OSError as error:
        raise InstallFailed(f"{error.filename or paths.plugins}: {error.strerror}") from error


def _is_ours(path: Path) -> bool:
    """Raises OSError, also when it is no file."""
    return MARK in read_file(path, MOST_PLUGIN_BYTES)


def _configure(paths: PluginPaths, network: str, *, replace: bool) -> str:
    path = paths.configuration / CONFLIST
    content = conflist(network, portmap=(paths.plugins / "portmap").exists())
    if path.exists() and not replace and read_file(path, MOST_CONFLIST_BYTES) != content:
        return f"{path}: left as it is, for it differs from ours; --replace-conflist writes it anew"
    return f"{path}: {'written' if put_file(path, content, 0o644) else 'stands already'}"


def configurations(directory: Path) -> tuple[list[tuple[str, bytes]], dict[str, str]]:
    """The files that runtimes read there, name and content; and those that could not be read, with why."""
    found: list[tuple[str, bytes]] = []
    unread: dict[str, str] = {}
    try:
        names = sorted(path.name for path in directory.iterdir() if path.suffix in CONFIGURATION_ENDS)
    except FileNotFoundError:
        return found, unread
    except OSError as error:
        return found, {str(directory): str(error.strerror)}
    for name in names[:MOST_CONFIGURATIONS]:
        try:
            found.append((name, read_file(directory / name, MOST_CONFLIST_BYTES)))
        except OSError as error:
            unread[name] = str(error.strerror)
    return found, unread


def uninstall(paths: PluginPaths) -> Iterator[str]:
    """Remove the configuration, then our plugins; pods keep their network. Raises InstallFailed."""
    try:
        path = paths.configuration / CONFLIST
        if path.exists():
            path.unlink()
            yield f"{path}: removed"
        for name in PLUGINS:
            path = paths.plugins / name
            if path.exists() and _is_ours(path):
                path.unlink()
                yield f"{path}: removed"
    except OSError as error:
        raise InstallFailed(f"{error.filename}: {error.strerror}") from error


def conflist(network: str, *, portmap: bool) -> bytes:
    """The network as runtimes read it; 1.0.0 because the plugins that may follow in the chain know no later one."""
    plugins: list[dict[str, object]] = [{"type": "tortie", "capabilities": {"ips": True, "mac": True}}]
    if portmap:
        plugins.append({"type": "portmap", "snat": True, "capabilities": {"portMappings": True}})
    raw = {"cniVersion": "1.0.0", "name": network, "plugins": plugins}
    return json.dumps(raw, indent=2).encode() + b"\n"


def _plugin(paths: PluginPaths, shim: str) -> tuple[bytes, str]:
    """The plugin and what it is. Raises InstallFailed."""
    compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
    if shim == "python" or (shim == "auto" and compiler is None):
        return _python(paths), "Python; the one in C starts faster and needs a compiler"
    if compiler is None:
        raise InstallFailed(f"no compiler ({', '.join(COMPILERS)}) is installed; use --shim python")
    try:
        return _compiled(paths, compiler), f"C, built by {compiler}"
    except InstallFailed:
        if shim == "c":
            raise
        return _python(paths), f"Python, for {compiler} did not build the one in C"


def _python(paths: PluginPaths) -> bytes:
    text = (SOURCE / "shim.py").read_text()
    for default, value in ((DEFAULT_SOCKET, paths.socket), (DEFAULT_STATE, paths.state)):
        text = text.replace(f'b"{default}"', repr(os.fsencode(value)))
    return text.encode()


def _compiled(paths: PluginPaths, compiler: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="tortie-shim-") as directory:
        built = Path(directory) / "tortie"
        defines = [f"-DSOCKET_PATH={_quoted(paths.socket)}", f"-DSTATE_PATH={_quoted(paths.state)}"]
        command = [compiler, "-O2", "-s", *defines, "-o", str(built), str(SOURCE / "shim.c")]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=COMPILE_SECONDS)
            return built.read_bytes()
        except subprocess.CalledProcessError as error:
            first = (error.stderr or "").strip().splitlines()[:1]
            raise InstallFailed(f"{compiler}: {' '.join(first) or 'failed'}; use --shim python") from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InstallFailed(f"{compiler}: {error}; use --shim python") from error


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _must_answer(plugin: Path) -> None:
    """A plugin that does not even say its versions must not be configured. Raises InstallFailed."""
    environment = {"CNI_COMMAND": "VERSION", "TORTIE_CNI_SOCKET": "/nonexistent"}
    try:
        done = subprocess.run(
            [plugin], input=b"{}", env=environment, capture_output=True, timeout=ANSWER_SECONDS, check=True
        )
        known = "supportedVersions" in json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise InstallFailed(f"{plugin} does not run here: {error}") from error
    if not known:
        raise InstallFailed(f"{plugin} runs but does not say which versions it supports")
