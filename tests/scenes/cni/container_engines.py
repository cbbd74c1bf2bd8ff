"""Runs containerd and podman of Debian on the nodes of a lab; the image is made of this machine's busybox.

Promises: each node has a mount namespace of its own, in which the engines find our plugins and our network list, and
where they keep all their state, in memory; the daemons are started here and ended here; no image is fetched. An engine
is left out where its own build says that it calls no CNI plugins: podman 5 (docs/systems.md).
Does not know: what the plugin does.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import secrets
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from agent.cni.plugin.plugin_install import CONFLIST, PluginPaths, install
from agent.lab.lab_plan import LabNode
from agent.lab.lab_processes import inside, wait_for

IMAGE = "docker.io/library/busybox:local"
BUSYBOX = Path("/bin/busybox")
CALL_SECONDS = 60.0
LOST_WORDS = 4
"""On a loaded machine `ctr task exec` now and then ends before it has copied what the command printed."""
CGROUPS = Path("/sys/fs/cgroup")
OWN_MOUNTS = """
set -e
while read -r _ _ _ _ point _; do  # network namespaces stay shared: the agent must see what an engine names
    case $point in /run/netns*) ;; *) mount --make-private "$point" ;; esac
done < /proc/self/mountinfo
mkdir -p /run/containerd /etc/cni/net.d
for own in /opt /var/lib /run/containerd /dev/shm; do mount -t tmpfs own $own; done
mkdir -p /opt/cni/bin
mount --bind "$1/plugins" /opt/cni/bin
mount --bind "$1/net.d" /etc/cni/net.d
exec containerd --config "$1/containerd.toml"
"""
CONTAINERD = """
version = 2
root = "/opt/containerd"
state = "/opt/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "/opt/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "/opt/plugins"
"""
PODMAN = """
[network]
network_backend = "cni"
cni_plugin_dirs = ["/opt/cni/bin"]
network_config_dir = "/etc/cni/net.d"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[containers]
pids_limit = 0
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
"""


class Kind(Enum):
    """A container engine's command."""

    CTR = "ctr"
    PODMAN = "podman"


NO_CNI = "cni support is not enabled in this build"


def image() -> bytes:
    """A docker archive of one layer: busybox and its names."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.add(BUSYBOX, "bin/busybox")
        for name in ("sh", "ip", "ping", "cat"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        for name in ("etc", "proc", "sys", "dev", "tmp", "run"):
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(directory)
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["cat"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    encoded = json.dumps(config).encode()
    name = f"{hashlib.sha256(encoded).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        parts = {"manifest.json": json.dumps(manifest).encode(), name: encoded, "layer.tar": layer.getvalue()}
        for path, content in parts.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return whole.getvalue()


@dataclass(frozen=True)
class Engines:
    """The engines of one node."""

    node: LabNode
    home: Path
    pid: int
    cgroup: str

    def command(self, kind: Kind, *words: str) -> list[str]:
        """The engine's command line, in the node's namespaces."""
        here = ["nsenter", f"--target={self.pid}", "--mount", "--net", "--"]
        if kind is Kind.CTR:
            return [*here, "ctr", "--address", "/opt/containerd.sock", *words]
        paths = {name: f"/opt/podman/{name}" for name in ("root", "runroot", "tmpdir")}
        options = [word for name, path in paths.items() for word in (f"--{name}", path)]
        options += ["--storage-driver", "vfs", "--runtime-flag", "root=/opt/runc"]
        return [*here, "env", f"CONTAINERS_CONF={self.home}/containers.conf", "podman", *options, *words]

    def run(self, kind: Kind, *words: str) -> str:
        """What a command printed."""
        done = subprocess.run(
            self.command(kind, *words), capture_output=True, text=True, timeout=CALL_SECONDS, check=False
        )
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def kinds(self) -> tuple[Kind, ...]:
        """Those that call CNI plugins."""
        asked = subprocess.run(
            self.command(Kind.PODMAN, "info"),
            capture_output=True,
            text=True,
            timeout=CALL_SECONDS,
            check=False,
        )
        if NO_CNI in asked.stderr:
            return (Kind.CTR,)
        assert asked.returncode == 0, asked.stderr
        return (Kind.CTR, Kind.PODMAN)

    def load(self, archive: Path) -> None:
        """Make the image known to each of them."""
        self.run(Kind.CTR, "image", "import", "--snapshotter", "native", str(archive))
        if Kind.PODMAN in self.kinds():
            self.run(Kind.PODMAN, "load", "--quiet", "--input", str(archive))

    @contextmanager
    def container(self, kind: Kind, name: str) -> Iterator[Container]:
        """A container that runs as long as the block; it ends with its input, and the engine removes it."""
        if kind is Kind.CTR:
            words = ["run", "--rm", "--cni", "--snapshotter", "native", "--cgroup", f"{self.cgroup}/{name}"]
            words += [IMAGE, name, "cat"]
        else:
            words = ["run", "--rm", "--interactive", "--network", "pods", "--cap-add", "NET_RAW"]
            words += ["--cgroup-parent", self.cgroup, "--name", name, IMAGE, "cat"]
        process = subprocess.Popen(
            self.command(kind, *words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        made = Container(self, kind, name, process)
        try:
            made.must_echo()
            yield made
        finally:
            made.end()


@dataclass(frozen=True)
class Container:
    """A container that is running."""

    engines: Engines
    kind: Kind
    name: str
    process: subprocess.Popen[bytes]

    def must_echo(self) -> None:
        """Its program answers: the network is made before it starts."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"here\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line == b"here\n", line + self.process.stdout.read()

    def run(self, *words: str) -> str:
        """Run a command inside."""
        if self.kind is Kind.CTR:
            return self.engines.run(
                Kind.CTR, "task", "exec", "--exec-id", f"e{os.urandom(4).hex()}", self.name, *words
            )
        return self.engines.run(Kind.PODMAN, "exec", self.name, *words)

    def address(self) -> str:
        """Its own, as it sees it."""
        for _ in range(LOST_WORDS):
            found = re.search(r"inet ([\d.]+)/32", self.run("ip", "-4", "addr", "show", "dev", "eth0"))
            if found is not None:
                return found[1]
        raise AssertionError(f"{self.name} shows no address")

    def end(self) -> None:
        """Close its input; the engine removes it."""
        output, _ = self.process.communicate(timeout=CALL_SECONDS)
        assert self.process.returncode == 0, output


@contextmanager
def engines(nodes: tuple[LabNode, ...], version: str) -> Iterator[list[Engines]]:
    """The engines on each node, with our plugin installed and the image loaded."""
    with ExitStack() as stack:
        started = [stack.enter_context(_started(node, version)) for node in nodes]
        archive = nodes[0].directory / "image.tar"
        archive.write_bytes(image())
        for one in started:
            one.load(archive)
        yield started


@contextmanager
def _started(node: LabNode, version: str) -> Iterator[Engines]:
    home = node.directory / "engines"
    paths = PluginPaths(home / "plugins", home / "net.d", node.run / "cni.sock", node.directory / "state")
    for _ in install(paths, "auto", "pods"):
        pass
    conflist = paths.configuration / CONFLIST
    conflist.write_text(json.dumps({**json.loads(conflist.read_text()), "cniVersion": version}))
    (home / "containerd.toml").write_text(CONTAINERD)
    (home / "containers.conf").write_text(PODMAN)
    cgroup = (
        f"/{node.namespace}-{secrets.token_hex(3)}"  # control groups are the machine's, other suites' too
    )
    words = ["unshare", "--mount", "--propagation", "unchanged", "sh", "-c", OWN_MOUNTS, "sh", str(home)]
    with (home / "containerd.log").open("w") as log:
        process = subprocess.Popen(inside(node.namespace, words), stdout=log, stderr=log)
    made = Engines(node, home, process.pid, cgroup)
    try:
        wait_for(
            "containerd", lambda: _answers(made), 20, lambda: (home / "containerd.log").read_text()[-500:]
        )
        yield made
    finally:
        process.terminate()
        process.wait(20)
        _remove_cgroups(cgroup)


def _answers(made: Engines) -> bool:
    words = made.command(Kind.CTR, "version")
    return subprocess.run(words, capture_output=True, check=False, timeout=CALL_SECONDS).returncode == 0


def _remove_cgroups(name: str) -> None:
    """In every hierarchy; a cgroup is a directory that can be removed when no process is in it."""
    for top in (CGROUPS, *CGROUPS.iterdir()):
        for directory, _, _ in os.walk(f"{top}{name}", topdown=False):
            with suppress(OSError):
                os.rmdir(directory)
