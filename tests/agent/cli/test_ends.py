"""How a command ends that does not end by itself: interrupted, or its reader has gone."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
import termios
import time

COMMAND = [sys.executable, "-m", "agent.cli.main"]
END_SECONDS = 60.0


def unread(pipe: int) -> int:
    """Bytes in a pipe that nobody has read."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4), sys.byteorder)


def test_an_interrupted_command_ends_with_130_and_says_nothing() -> None:
    process = subprocess.Popen(
        [*COMMAND, "apply", "-f", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stdin is not None
        process.stdin.write(b"kind: Node\n")
        process.stdin.flush()
        until = time.monotonic() + END_SECONDS
        while unread(process.stdin.fileno()):  # then it waits for the rest
            assert time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.wait(END_SECONDS) == 130
        assert process.communicate() == (b"", b"")
    finally:
        process.kill()


def test_a_command_whose_reader_has_gone_ends_without_a_word() -> None:
    process = subprocess.Popen(
        [*COMMAND, "config", "reference"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(END_SECONDS) == 0
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
