"""Forks of a process that has loaded the program: what they are given, what they show, when they end."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from agent.lab.forks import MOST_REQUEST_BYTES, Fork, Program
from agent.lab.lab_plan import LabError
from tests.fixtures.namespace import fresh_namespace
from tests.fixtures.program import loaded

HERE = Path("/proc/self/ns/net")
SECONDS = 60.0


def fork(*words: str, **more: object) -> Fork:
    return Fork("tests.scenes.lab.forked", words, {"OF": "the test"}, **more)  # type: ignore[arg-type]


def test_a_command_has_what_it_was_given_and_is_shown_by_its_own_words(tmp_path: Path) -> None:
    with fresh_namespace():
        space = os.readlink("/proc/thread-self/ns/net")
        asked = fork("7", "two words", namespace=f"/proc/{os.getpid()}/ns/net", directory=str(tmp_path))
        done = loaded().run(asked, "given", SECONDS)
    seen = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (7, "given\n")
    assert (seen["words"], seen["folder"]) == (["7", "two words"], str(tmp_path))
    assert (seen["environment"], seen["namespace"]) == ({"OF": "the test"}, space)
    assert seen["shown"] == [sys.executable, "-m", "tests.scenes.lab.forked", "7", "two words"]
    assert seen["open"] == [0, 1, 2]
    assert not seen["leads_session"]


def test_a_detached_one_is_a_process_of_its_own(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with open(reading, "rb") as output:
        with open(writing, "wb") as log, open(os.devnull, "rb") as nothing:
            assert loaded().spawn(fork("3", is_detached=True), nothing, log, log).wait(SECONDS) == 0
        seen = json.loads(output.readline())
        assert output.read() == b"\n"
    assert seen["leads_session"]
    assert seen["open"] == [0, 1, 2]


@pytest.mark.parametrize("is_patient", [True, False], ids=["closed", "timeout"])
def test_a_command_is_killed_when_nobody_waits_for_it_any_more(*, is_patient: bool) -> None:
    ours, theirs = socket.socketpair()
    with ours, ours.makefile("rb") as output:
        with theirs:
            running = loaded().spawn(fork("0"), theirs, theirs, theirs)
        assert output.readline()  # it lives, and waits for its input
        if is_patient:
            running.close()
        else:
            with pytest.raises(subprocess.TimeoutExpired):
                running.wait(0.01)
        assert output.read() == b""


def test_a_program_that_was_killed_is_started_again_by_who_asks_next(tmp_path: Path) -> None:
    own = Program(tmp_path / "program.sock", HERE, tmp_path / "program.log")
    own.start(loaded())
    pids = []
    for _ in range(2):
        pids.append(int(json.loads(own.run(fork("0"), "", SECONDS).stdout)["program"]))
        ended = os.pidfd_open(pids[-1])
        os.kill(pids[-1], signal.SIGKILL)
        assert select.select([ended], [], [], SECONDS)[0]
        os.close(ended)
    assert len(set(pids)) == 2
    assert stat.S_IMODE(own.address.stat().st_mode) == 0o600


def test_what_is_no_request_is_refused_and_costs_nobody_else_anything() -> None:
    for junk in (b"junk", b"{}", b"[1]", b'{"module": 1}'):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect(str(loaded().address))
            connection.send(junk)
            assert connection.recv(1) == b""
    with pytest.raises(LabError, match="too many"):
        loaded().run(fork("x" * MOST_REQUEST_BYTES), "", SECONDS)
    nowhere = loaded().run(fork("0", namespace="/dev/null"), "", SECONDS)
    assert nowhere.returncode == 1
    assert "no network namespace: '/dev/null'" in nowhere.stderr
    assert loaded().run(fork("0"), "", SECONDS).returncode == 0
