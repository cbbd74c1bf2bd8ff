"""A file is replaced whole or not at all, and only when it differs."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent.durable_files import put_file, sweep


def test_a_file_is_written_once_and_again_when_content_or_mode_differ(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert put_file(path, b"one", 0o600)
    assert not put_file(path, b"one", 0o600)
    assert put_file(path, b"one", 0o644)
    assert put_file(path, b"two", 0o644)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"two", 0o644)
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_what_was_there_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    put_file(path, b"one", 0o600)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            put_file(path, b"longer", 0o600)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"one", [path])


KILLED = """
import os, signal, sys
from pathlib import Path
from agent.durable_files import put_file
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
put_file(Path(sys.argv[1]), b"two", 0o600)
"""


def test_a_writer_that_is_killed_leaves_what_was_there_and_its_half_is_swept(tmp_path: Path) -> None:
    path = tmp_path / "file"
    put_file(path, b"one", 0o600)
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    (tmp_path / ".x.new").mkdir()
    assert (path.read_bytes(), len(list(tmp_path.iterdir()))) == (b"one", 3)
    sweep(tmp_path)
    assert sorted(found.name for found in tmp_path.iterdir()) == [".x.new", "file"]
    sweep(tmp_path / "nowhere")
