"""Help: each command has an example that its own parser takes; it is quick; exit codes are as it says."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from agent.cli.commands.lab import ProgressLine
from agent.cli.main import main
from tests import ROOT
from tests.scenes.cli.cli_examples import ELSEWHERE, Place, commands, examples, invocations, lines, refused

COMMANDS = dict(commands())
FOREIGN = frozenset(
    (
        *("asyncio", "dataclasses", "hashlib", "http", "inspect", "ssl"),
        *("etcd3", "google", "grpc", "msgspec", "prometheus_client", "pyroute2", "structlog", "yaml"),
    )
)
"""What costs more to import than a help text may."""
MOST_MODULES = 120
"""That `tortie --help` loads, python's own start among them; each costs about half a millisecond."""


def said(*words: str) -> tuple[object, str, str]:
    """What a command line says that does not get as far as doing anything."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as caught:
        main(words)
    return caught.value.code, out.getvalue(), err.getvalue()


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_an_example_of_itself_in_its_help(command: str) -> None:
    code, out, _ = said(*command.split(), "--help")
    assert code == 0
    own = [line for line in lines(COMMANDS[command].epilog) if line.startswith(f"tortie {command}")]
    assert own
    assert all(line in out for line in own)


@pytest.mark.parametrize("line", [example.line for example in examples()])
def test_each_example_is_one_that_the_parser_takes(line: str) -> None:
    found = invocations(line)
    assert found or line.startswith(("systemctl ", "PYTHONPATH="))
    assert [refused(words) for words in found] == [""] * len(found)


def test_each_example_has_a_place_where_it_is_run_or_a_reason() -> None:
    assert {example.place for example in examples()} == set(Place)
    assert {example.line for example in examples() if example.place is Place.ELSEWHERE} == set(ELSEWHERE)


def readme() -> list[str]:
    """The lines of shell that the README shows."""
    return [
        line.strip()
        for line in (ROOT / "README.md").read_text().splitlines()
        if line.startswith("    ") and "tortie " in line
    ]


@pytest.mark.parametrize("line", readme())
def test_each_command_that_the_readme_shows_exists(line: str) -> None:
    assert [refused(words) for words in invocations(line)] == [""] * len(invocations(line))


def test_the_readme_shows_the_first_steps() -> None:
    shown = [" ".join(words[:2]) for line in readme() for words in invocations(line)]
    assert {"lab up", "lab ping", "apply -f", "node status", "cni install"} <= set(shown)
    code, _, err = said("aply", "-f", "x")
    assert code == 2
    assert err.endswith("tortie: no command 'aply'; did you mean apply?; see: tortie --help\n")


def loaded(*words: str) -> set[str]:
    """The modules that a command line loads in a process of its own."""
    script = (
        f"import sys; sys.argv = {['tortie', *words]!r}\ntry:\n    from agent.cli.main import main; main()\n"
    )
    script += "except SystemExit:\n    print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{script}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("words", [("--help",), ("get", "--help"), ("lab", "up", "--help"), ("nothing",)])
def test_help_loads_little_and_nothing_foreign(words: tuple[str, ...]) -> None:
    found = loaded(*words)
    assert "agent.cli.commands.resources" in found
    assert {name.partition(".")[0] for name in found} & FOREIGN == set()
    assert not any(name.startswith(("ipam", "bgp", "agent.datastore", "agent.dataplane")) for name in found)
    assert len(found) <= MOST_MODULES


@pytest.mark.parametrize("words", [("node", "status"), ("bgp", "peers"), ("routes",)])
def test_a_command_that_asks_the_agent_loads_no_client_of_etcd(words: tuple[str, ...]) -> None:
    found = loaded(*words)
    assert "agent.control" in found
    assert {name.partition(".")[0] for name in found} & {"grpc", "google", "etcd3"} == set()


def test_a_command_that_asks_etcd_loads_its_messages_and_not_its_foreign_client() -> None:
    found = loaded("--etcd-endpoints", "http://127.0.0.1:1", "get", "ippools")
    assert "etcd3.etcdrpc.rpc_pb2" in found
    assert {"etcd3", "etcd3.client", "tenacity"} & found == set()


@pytest.mark.parametrize(
    ("terminal", "no_color", "sequences"), [(True, "", True), (True, "1", False), (False, "", False)]
)
def test_a_line_changes_in_place_on_a_terminal_that_does_not_refuse_it(
    terminal: bool, no_color: str, sequences: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    ours, theirs = os.openpty() if terminal else os.pipe()
    with open(theirs, "w") as screen, open(ours, "rb") as reader, redirect_stderr(screen):
        progress = ProgressLine()
        progress("making the fabric")
        progress.done()
        written = os.read(reader.fileno(), 1000)
    assert written.startswith(b"\r\x1b[Kmaking" if sequences else b"making")


def test_exit_codes_are_those_that_help_documents(tmp_path: Path) -> None:
    _, out, _ = said("--help")
    assert "exit codes: 0 done 1 refused or failed, with a sentence on standard error" in " ".join(
        out.split()
    )
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("kind: Node\nmetadata: {name: n}\n")
    bad.write_text("kind: Nod\n")
    assert main(["validate", "-f", str(good)]) is None
    code, out, _ = said("validate", "-f", str(bad))
    assert str(code).startswith(f"tortie: {bad}: line 1: kind: 'Nod' is not")  # a text ends a process with 1
    assert said("validate")[0] == 2
