"""A secret in each place that may hold one is in nothing that a command, a log, a page, a socket or an archive has."""

from __future__ import annotations

import base64
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from agent import daemon
from agent.cli.commands.diags import COMMANDS
from agent.lab import lab_processes, lifecycle
from agent.lab.lab_plan import LabNode, Mode, etcd_endpoint
from agent.lab.lab_processes import inside
from agent.lab.lifecycle import Lab
from tests.fixtures import program
from tests.scenes.cli.cli_examples import Place, at
from tests.scenes.cli.cli_runs import run
from tests.scenes.lab.lab_nodes import resource
from tests.scenes.lab.labs import COMMAND, MakeLab

pytestmark = pytest.mark.lab

PLACES = ("mesh", "etcd", "former", "key", "token", "endpoint", "literal", "cni", "toml")
SECRETS = {place: f"Zq{number}planted{place}" for number, place in enumerate(PLACES)}
"""Place -> a secret that nothing else says; letters and digits, so that no program escapes it."""
CHANGING = {"drain", "undrain", "leave", "diags", "reload", "exec", "--output"}
QUESTIONS = (
    "status",
    "config",
    "addresses",
    "peers",
    "routes",
    "table",
    "plan",
    "paths {}",
    "peer 172.26.0.12",
)


def forms(secret: str) -> Iterator[bytes]:
    """How it may stand somewhere."""
    data = secret.encode()
    yield data
    yield data.hex().encode()
    yield data.hex().upper().encode()
    for offset, start in enumerate((0, 2, 3)):
        yield base64.b64encode(b"\0" * offset + data)[start : (offset + len(data)) * 8 // 6]


class Outputs:
    """Everything that was given, by what gave it."""

    def __init__(self, node: LabNode, environment: dict[str, str]) -> None:
        self.node = node
        self.environment = {**os.environ, **node.environment, **environment}
        self.given: dict[str, bytes] = {}

    def run(self, *lines: Sequence[str]) -> None:
        """Run commands on the node."""
        for words in lines:
            done = program.run(inside(self.node.namespace, [*COMMAND, *words]), env=self.environment)
            self.given[shlex.join(words)] = f"{done.stdout}{done.stderr}".encode()

    def here(self, *words: str, text: str = "") -> None:
        """The same without a process of its own, for what needs no network."""
        code, out, err = run(words, text)
        self.given[f"{len(self.given)} {words[:2]}"] = f"{code} {out} {err}".encode()

    def agent(self, *words: str) -> None:
        """An agent that finds its settings wrong."""
        before, sys.argv = sys.argv, ["tortie-agent", *words]
        try:
            with pytest.raises(SystemExit) as ended:
                daemon.main()
        finally:
            sys.argv = before
        self.given[f"{len(self.given)} tortie-agent"] = str(ended.value.code).encode()

    def ask(self, name: str, octets: bytes) -> bytes:
        """One question over a socket of the agent."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20)
            connection.connect(str(self.node.run / name))
            connection.sendall(octets)
            connection.shutdown(socket.SHUT_WR)
            found = b""
            while data := connection.recv(1 << 16):
                found += data
        self.given[f"{name} {octets[:60]!r}"] = found
        return found

    def leaks(self) -> list[str]:
        """Where a secret stands."""
        return [
            f"{where}: {place}: …{octets[max(0, octets.find(form) - 60) :][:160]!r}"
            for where, octets in self.given.items()
            for place, secret in SECRETS.items()
            for form in forms(secret)
            if form in octets
        ]


def etcdctl(lab: Lab, *words: str) -> None:
    command = ["etcdctl", f"--endpoints={etcd_endpoint()}", *words]
    environment = {**os.environ, "ETCDCTL_API": "3"}
    subprocess.run(inside(lab.plan.fabric, command), check=True, capture_output=True, env=environment)


def private(path: Path, text: str) -> Path:
    """A file that only its owner reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(0o600)
    path.write_text(text)
    return path


@pytest.fixture
def lab(make_lab: MakeLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Two nodes whose mesh has a password, at an etcd that asks for one, agents that log all they can."""
    private(tmp_path / "secrets" / "bgp" / "mesh", f"{SECRETS['mesh']}\n")
    monkeypatch.setenv("TORTIE_PATHS_SECRETS", str(tmp_path / "secrets"))
    monkeypatch.setenv("TORTIE_LOG_LEVEL", "debug")
    monkeypatch.setenv("SOME_API_TOKEN", SECRETS["token"])
    made = make_lab("hush", Mode.NONE, nodes=2, pods=2)
    reference = {"secretKeyRef": {"name": "bgp", "key": "mesh"}}
    lifecycle.apply(made.plan, resource("BGPConfiguration", "default", nodeMeshPassword=reference))
    for words in (
        *(("user", "add", f"root:{SECRETS['etcd']}"), ("role", "add", "root")),
        *(("user", "grant-role", "root", "root"), ("auth", "enable")),
    ):
        etcdctl(made, *words)
    return made


def credentials(directory: Path) -> dict[str, str]:
    """The settings with which the datastore is spoken to: the key is used with https alone, but read."""
    password = private(directory / "etcd.password", f"{SECRETS['etcd']}\n")
    key = private(directory / "etcd.key", f"-----BEGIN PRIVATE KEY-----\n{SECRETS['key']}\n")
    return {
        "TORTIE_ETCD_USERNAME": "root",
        "TORTIE_ETCD_PASSWORD_FILE": str(password),
        "TORTIE_ETCD_KEY_FILE": str(key),
        "TORTIE_ETCD_CERT_FILE": str(directory / "etcd.pem"),
    }


def has_md5_session(node: LabNode) -> bool:
    """Whether `ss` shows the key of a session: what the archive must not."""
    words = inside(node.namespace, ["ss", "-tni", "( sport = :179 or dport = :179 )"])
    return SECRETS["mesh"] in subprocess.run(words, capture_output=True, text=True, check=True).stdout


def ask_all(outputs: Outputs) -> None:
    """Every command that looks, every question of the socket, every page."""
    for line in at(Place.NODE):
        words = shlex.split(line.partition(" | ")[0])[1:]
        if not CHANGING & set(words):
            outputs.here(*words)
    for words in (("--help",), ("node", "diags", "--help"), ("config", "--help")):
        outputs.here(*words)
    kinds = ("nodes", "ippools", "bgppeers", "bgpconfigurations", "workloadendpoints")
    lines = [("get", kind, "-o", "yaml") for kind in kinds]
    outputs.run(*lines, ("config",), ("ipam", "show", "--show-blocks"), ("ipam", "check"))
    for question in QUESTIONS:
        outputs.ask("agent.sock", f"{question}\n".encode())
    for page in ("metrics", "readyz", "livez", "nothing"):
        outputs.ask("metrics.sock", f"GET /{page} HTTP/1.0\r\nAuthorization: x\r\n\r\n".encode())


def do_wrong(outputs: Outputs, directory: Path) -> None:
    """Secrets where they do not belong: refused, and not repeated."""
    endpoint = f"--etcd-endpoints=http://root:{SECRETS['endpoint']}@10.0.0.1:2379"
    for words in (("get", "nodes"), ("node", "diags"), ("config",)):
        outputs.here(endpoint, *words)
    outputs.agent(endpoint)
    literal = json.dumps(resource("BGPPeer", "x", peerIP="10.0.0.1", asNumber=1, password=SECRETS["literal"]))
    for text in (literal, literal.replace('"10.0.0.1"', "{"), literal.replace("BGPPeer", "Secret")):
        outputs.here("apply", "-f", "-", text=text)
    wrong = SECRETS["toml"]
    for text in (f"[etcd]\npassword = '{wrong}'", f"[etcd]\npassword_file = '{wrong}'", f"'{wrong}'"):
        file = private(directory / "wrong.toml", text)
        outputs.here("--config", str(file), "config")
        outputs.agent("--config", str(file))
    config = {"cniVersion": "1.0.0", "name": "n", "type": "tortie", "k8s_auth_token": SECRETS["cni"]}
    for verb in ("ADD", "DEL", "CHECK", "STATUS", "FLY"):
        variables = f"CNI_COMMAND={verb}\0CNI_CONTAINERID=c\0CNI_NETNS=/none\0CNI_IFNAME=eth0\0CNI_PATH=/"
        for octets in (
            json.dumps(config),
            json.dumps(config)[:-1],
            json.dumps({**config, "ipam": {"type": 7}}),
        ):
            outputs.ask("cni.sock", f"{variables}\0\0{octets}".encode())


def add_archive(outputs: Outputs, output: Path) -> None:
    """What is in an archive, by name."""
    outputs.run(("node", "diags", "--output", str(output)))
    assert output.stat().st_mode & 0o777 == 0o600
    with tarfile.open(output) as archive:
        for entry in archive:
            file = archive.extractfile(entry)
            assert file is not None
            outputs.given[f"{output.name}: {entry.name.removeprefix('tortie-diags/')}"] = file.read()


def test_a_secret_that_is_planted_anywhere_is_found_nowhere(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = lab.plan.nodes[0]
    for name, text in node.environment.items():
        monkeypatch.setenv(name, text)
    status = tmp_path / "notify"
    outputs = Outputs(node, settings := credentials(tmp_path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(status))
        systemd.settimeout(0)
        for one in lab.plan.nodes:
            lab_processes.stop_agent(one, signal.SIGTERM)
        lab_processes.start_agents(lab.plan.nodes, {**settings, "NOTIFY_SOCKET": str(status)})
        lab_processes.wait_for_agents(lab.plan)
        lab_processes.wait_for("a session with the password", lambda: has_md5_session(node), 30)
        ask_all(outputs)
        do_wrong(outputs, tmp_path)
        add_archive(outputs, tmp_path / "diags.tar.gz")
        words = inside(node.namespace, [*COMMANDS["host/sessions"]])
        outputs.given["ss itself"] = subprocess.run(words, capture_output=True, check=True).stdout
        # A password that is refused, and a file that cannot be read: what is logged and shown of them.
        (tmp_path / "etcd.password").write_text(f"{SECRETS['former']}\n")
        (tmp_path / "secrets" / "bgp" / "mesh").chmod(0o666)
        outputs.run(("get", "nodes"))
        for one in lab.plan.nodes:
            lab_processes.stop_agent(one, signal.SIGTERM)
        lab_processes.start_agents([node], {**settings, "NOTIFY_SOCKET": str(status)})
        lab_processes.wait_for("the agent", lambda: lab_processes.agent_status(node) is not None, 30)
        outputs.here("node", "status", "--json")
        add_archive(outputs, tmp_path / "without.tar.gz")
        outputs.given["systemd"] = b"\n".join(iter_datagrams(systemd))
    for one in lab.plan.nodes:
        outputs.given[f"log of {one.name}"] = (one.directory / "agent.log").read_bytes()
    found = lab_processes.agent_status(node)
    assert found is not None
    outputs.given["ps"] = Path(f"/proc/{found['pid']}/cmdline").read_bytes()
    assert len(outputs.given) > 100
    assert b"ESTAB" in outputs.given["diags.tar.gz: host/sessions.txt"]
    assert b"md5keys" not in outputs.given["diags.tar.gz: host/sessions.txt"]
    assert outputs.leaks() == []


def iter_datagrams(systemd: socket.socket) -> Iterator[bytes]:
    """What waits in the service manager's socket."""
    while True:
        try:
            yield systemd.recv(1 << 16)
        except BlockingIOError:
            return
