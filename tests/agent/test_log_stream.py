"""A log that nobody reads holds nobody and ends nobody, and what was lost is counted and said."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.logging.log_stream import LogStream

PROGRAM = """
import logging, sys
from pathlib import Path
from agent.logging import log
stream = log.configure("info", "human", journal_socket=Path(sys.argv[1]))
import structlog
for number in range(5000):
    structlog.get_logger().warning("datastore.away", number=number, why="x" * 100)
    logging.getLogger("asyncio").warning("a library's own %d", number)
print(stream.lost, flush=True)
"""


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe of one page: to read, to write."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)


def test_a_full_pipe_loses_lines_and_the_next_that_gets_through_says_how_many() -> None:
    with pipe() as (reading, writing):
        stream = LogStream(writing)
        stream.write("first")
        for _ in range(9):
            stream.write("x" * 2000)
        assert stream.lost == 9  # a page that is not empty is not writable to poll
        lost = stream.lost
        (trouble,) = stream.troubles()
        assert f"{lost} lines are lost" in trouble.evidence
        got = os.read(reading, 1 << 16)
        stream.write("after")
        got += os.read(reading, 1 << 16)
        lines = got.decode().splitlines()
        assert lines[0] == "first"
        assert lines[-2:] == [f"level=warning event=log.lines_lost count={lost}", "after"]
        assert (list(stream.troubles()), stream.lost) == ([], lost)


def test_a_line_longer_than_the_pipe_is_cut_and_the_next_one_begins_anew() -> None:
    with pipe() as (reading, writing):
        stream = LogStream(writing)
        stream.write("x" * 9000)
        got = os.read(reading, 1 << 16)
        stream.write("after")
        lines = (got + os.read(reading, 1 << 16)).decode().splitlines()
        assert set(lines[0]) == {"x"}
        assert lines[1:] == ["level=warning event=log.lines_lost count=1", "after"]


def test_a_reader_that_has_gone_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    stream = LogStream(writing)
    stream.write("to nobody")
    assert stream.lost == 1
    os.close(writing)
    stream.write("to nothing")
    assert stream.lost == 2


def run_program(journal: Path, stderr: int, environment: dict[str, str]) -> int:
    """The lines that a program lost which logs very much; it must end by itself."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(journal)],
        stdout=subprocess.PIPE,
        stderr=stderr,
        env={**os.environ, **environment},
        timeout=60,
        check=True,
        preexec_fn=lambda: signal.signal(signal.SIGPIPE, signal.SIG_DFL),
    )
    return int(done.stdout)


def test_a_process_whose_standard_error_is_full_goes_on(tmp_path: Path) -> None:
    with pipe() as (_, writing):
        assert run_program(tmp_path / "none", writing, {}) > 9000


def test_a_process_whose_journal_takes_nothing_goes_on(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    stream, journals_end = socket.socketpair()
    with stream, journals_end, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(journal))
        status = os.fstat(stream.fileno())
        environment = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert run_program(journal, stream.fileno(), environment) > 5000
        assert listening.recv(1 << 16).startswith(b"MESSAGE=")
