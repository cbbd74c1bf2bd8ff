"""The two shims, one contract: what a runtime gives them reaches the agent, what the agent says reaches the runtime."""

from __future__ import annotations

import ast
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.cni.release_journal import ReleaseJournal
from agent.lab.pods import PLUGIN, PYTHON
from tests.fixtures.tiny_disk import tiny_disk

Shim = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("shim") / "tortie"
    source = PLUGIN.with_suffix(".c")
    subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(built), str(source)], check=True)
    return built


@pytest.fixture(params=["python", "c"])
def command(request: pytest.FixtureRequest, compiled: Path) -> list[str]:
    return [PYTHON, "-IS", str(PLUGIN)] if request.param == "python" else [str(compiled)]


@pytest.fixture
def shim(command: list[str], tmp_path: Path) -> Shim:
    def run(
        stdin: bytes = b'{"cniVersion":"1.0.0"}', **environment: str
    ) -> subprocess.CompletedProcess[bytes]:
        known = {"TORTIE_CNI_SOCKET": str(tmp_path / "cni.sock"), "TORTIE_STATE_DIR": str(tmp_path / "state")}
        return subprocess.run(
            command, input=stdin, capture_output=True, env={**known, **environment}, timeout=30
        )

    return run


@pytest.fixture
def full_disk() -> Iterator[Path]:
    with tiny_disk() as disk:
        (disk.path / "releases").mkdir()
        disk.fill()
        yield disk.path


class Agent:
    """Answers one call as it is configured, in a process of its own, and keeps what it was asked."""

    def __init__(self, directory: Path, answer: bytes) -> None:
        self._asked = directory / "asked"
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(directory / "cni.sock"))
        listening.listen()
        self._pid = os.fork()
        if self._pid == 0:
            connection, _ = listening.accept()
            data = b""
            while part := connection.recv(1 << 16):
                data += part
            self._asked.write_bytes(data)
            connection.sendall(answer)
            os._exit(0)
        listening.close()

    def asked(self) -> tuple[dict[str, str], bytes]:
        os.waitpid(self._pid, 0)
        head, _, stdin = self._asked.read_bytes().partition(b"\0\0")
        return dict(item.decode().split("=", 1) for item in head.split(b"\0")), stdin


@pytest.fixture
def answering(tmp_path: Path) -> Callable[[bytes], Agent]:
    return lambda answer: Agent(tmp_path, answer)


def test_environment_and_standard_input_reach_the_agent_unchanged(
    shim: Shim, answering: Callable[[bytes], Agent]
) -> None:
    agent = answering(b'0{"cniVersion":"1.0.0"}')
    stdin = json.dumps({"name": "n", "odd": "\n\t\u00e4\\"}).encode() + b"\n" * 5000
    done = shim(stdin, CNI_COMMAND="ADD", CNI_CONTAINERID="c", CNI_ARGS="A=1;B=2", CNI_IFNAME="eth0")
    assert (done.returncode, done.stdout) == (0, b'{"cniVersion":"1.0.0"}')
    environment, received = agent.asked()
    assert received == stdin
    assert {name: text for name, text in environment.items() if text} == {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c",
        "CNI_ARGS": "A=1;B=2",
        "CNI_IFNAME": "eth0",
    }


def test_an_error_of_the_agent_is_printed_and_is_the_exit_status(
    shim: Shim, answering: Callable[[bytes], Agent]
) -> None:
    agent = answering(b'1{"code":11,"msg":"later"}')
    done = shim(CNI_COMMAND="ADD")
    assert (done.returncode, done.stdout) == (1, b'{"code":11,"msg":"later"}')
    agent.asked()


def test_a_long_answer_is_printed_whole(shim: Shim, answering: Callable[[bytes], Agent]) -> None:
    agent = answering(b"0" + b"x" * 300_000)
    done = shim(CNI_COMMAND="ADD")
    assert (done.returncode, len(done.stdout)) == (0, 300_000)
    agent.asked()


def test_without_an_agent_an_add_says_try_again(shim: Shim) -> None:
    done = shim(CNI_COMMAND="ADD", CNI_CONTAINERID="c", CNI_IFNAME="eth0")
    error = json.loads(done.stdout)
    assert (done.returncode, error["code"]) == (1, 11)
    assert error["msg"].endswith("; is tortie-agent running?")


def test_without_an_agent_status_says_that_existing_pods_may_be_cut_off(shim: Shim) -> None:
    done = shim(CNI_COMMAND="STATUS")
    error = json.loads(done.stdout)
    assert (done.returncode, error["code"]) == (1, 51)
    assert error["msg"].startswith("the agent does not answer: ")


def test_what_is_longer_than_any_real_value_is_as_good_as_missing(
    shim: Shim, answering: Callable[[bytes], Agent]
) -> None:
    agent = answering(b"0")
    shim(CNI_COMMAND="ADD", CNI_ARGS="x" * 20_000, CNI_IFNAME="y" * 8191)
    environment, _ = agent.asked()
    assert (environment["CNI_ARGS"], len(environment["CNI_IFNAME"])) == ("", 8191)


def test_a_configuration_without_end_is_cut_and_never_fills_the_memory(
    shim: Shim, answering: Callable[[bytes], Agent]
) -> None:
    agent = answering(b"1{}")
    shim(b" " * (10 << 20), CNI_COMMAND="ADD")
    _, stdin = agent.asked()
    assert (1 << 20) <= len(stdin) <= (1 << 20) + 1


def test_an_agent_that_dies_during_a_call_is_as_good_as_none(
    shim: Shim, answering: Callable[[bytes], Agent]
) -> None:
    agent = answering(b"")
    done = shim(CNI_COMMAND="ADD", CNI_CONTAINERID="c", CNI_IFNAME="eth0")
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, 11)
    agent.asked()


def test_without_an_agent_a_del_is_written_down_as_the_agent_would(shim: Shim, tmp_path: Path) -> None:
    stdin = '{"cniVersion":"1.0.0","name":"n","odd":"\u00e4\\n\\""}'.encode("ascii", "backslashreplace")
    done = shim(stdin, CNI_COMMAND="DEL", CNI_CONTAINERID="c-1", CNI_IFNAME="eth0", CNI_ARGS='X="1"')
    assert (done.returncode, done.stdout) == (0, b"")
    journal = ReleaseJournal(tmp_path / "state")
    (path,) = journal.directory.iterdir()
    release = journal.read(path)
    assert release.config.encode() == stdin
    assert release.environment["CNI_CONTAINERID"] == "c-1"
    assert release.environment["CNI_ARGS"] == 'X="1"'


@pytest.mark.parametrize("container", ["../../etc/x", "", "a b"])
def test_a_name_that_could_leave_the_journal_is_refused(shim: Shim, tmp_path: Path, container: str) -> None:
    done = shim(CNI_COMMAND="DEL", CNI_CONTAINERID=container, CNI_IFNAME="eth0")
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, 4)
    assert list(tmp_path.rglob("*.json")) == []


async def test_an_id_too_long_for_a_files_name_is_written_down_and_found_by_both(
    shim: Shim, tmp_path: Path
) -> None:
    container = "c" * 253
    done = shim(CNI_COMMAND="DEL", CNI_CONTAINERID=container, CNI_IFNAME="interface-of-15")
    assert (done.returncode, done.stdout) == (0, b"")
    journal = ReleaseJournal(tmp_path / "state")
    (path,) = await journal.pending_of(container, "interface-of-15")
    assert journal.read(path).environment["CNI_CONTAINERID"] == container
    assert await journal.pending_of(container[:200], "interface-of-15") == []


def test_on_a_full_disk_a_del_is_no_success_and_nothing_is_left_of_it(shim: Shim, full_disk: Path) -> None:
    done = shim(
        b'{"odd":"' + b"\xe4" * 900_000 + b'"}',
        CNI_COMMAND="DEL",
        CNI_CONTAINERID="c",
        CNI_IFNAME="eth0",
        TORTIE_STATE_DIR=str(full_disk),
    )
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, 11)
    assert list((full_disk / "releases").iterdir()) == []


def test_a_release_that_cannot_be_written_down_is_no_success(shim: Shim, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where a directory should be")
    done = shim(CNI_COMMAND="DEL", CNI_CONTAINERID="c", CNI_IFNAME="eth0")
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, 11)


def test_version_is_answered_without_an_agent(shim: Shim) -> None:
    done = shim(CNI_COMMAND="VERSION")
    assert done.returncode == 0
    assert "1.1.0" in json.loads(done.stdout)["supportedVersions"]


def test_called_by_hand_it_says_what_it_is(shim: Shim) -> None:
    done = shim()
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr.startswith(b"tortie: a CNI plugin; a container runtime calls it.")


def test_the_python_shim_imports_builtin_modules_only() -> None:
    found = list(ast.walk(ast.parse(PLUGIN.read_text())))
    names = {alias.name for one in found if isinstance(one, ast.Import) for alias in one.names}
    names |= {str(one.module) for one in found if isinstance(one, ast.ImportFrom)}
    assert "posix" in names
    assert names <= set(sys.builtin_module_names)
