"""Asks a process that has loaded the program (program.py) for forks of it: agents, and commands with their output.

Promises: such a process is started when none answers, and is in a namespace of the lab, so it ends with it; only root
can ask. Does not know: what a fork does.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from agent.lab.lab_plan import LabError

MODULE = "agent.lab.program"
STREAMS = 3
"""What comes with a request: standard input, output and error."""
MOST_REQUEST_BYTES = 128 << 10
"""execve(2) has such a bound for one string of an environment."""
WAITING = 64
"""Requests that may wait at once."""
TRIES = 3
LOAD_SECONDS = 60.0
"""For an answer to a request that needs no more than a fork: the program is loaded within a second or two."""


@dataclass(frozen=True, slots=True)
class Fork:
    """What to run in a fork of the program."""

    module: str
    """Whose `main` is called, with `words` for a command line."""
    words: Sequence[str]
    environment: Mapping[str, str]
    """The whole of it."""
    namespace: str = ""
    """The network namespace's file; empty: the program's own."""
    directory: str = "/"
    is_detached: bool = False
    """Answered at once, and in a session of its own; else answered by its exit status."""

    def encode(self) -> bytes:
        """As one message. Raises LabError when it is too long."""
        data = json.dumps(asdict(self)).encode()
        if len(data) > MOST_REQUEST_BYTES:
            raise LabError(f"{self.module}: {len(data)} bytes of command line and environment are too many")
        return data

    @classmethod
    def decode(cls, data: bytes) -> Fork:
        """What `encode` made. Raises ValueError."""
        try:
            return cls(**json.loads(data))
        except TypeError as error:
            raise ValueError(f"not a fork: {error}") from None


class Running:
    """A command that was asked for; it is killed when this is closed before it has ended."""

    def __init__(self, fork: Fork, connection: socket.socket) -> None:
        self._fork = fork
        self._connection = connection

    def wait(self, seconds: float) -> int:
        """Its exit status, negative for a signal. Raises TimeoutExpired, and LabError when it was not started."""
        self._connection.settimeout(seconds)
        with self._connection:
            try:
                answer = self._connection.recv(MOST_REQUEST_BYTES)
            except TimeoutError:
                raise subprocess.TimeoutExpired([self._fork.module, *self._fork.words], seconds) from None
            except ConnectionResetError:  # the program died before it took the request
                answer = b""
        if not answer:
            raise LabError(f"{self._fork.module} could not be started as a fork of the loaded program")
        return int(answer)

    def close(self) -> None:
        """Let it be killed, unless it has ended."""
        self._connection.close()


@dataclass(frozen=True, slots=True)
class Program:
    """A process that has loaded the program, or is to."""

    address: Path
    """Its socket."""
    namespace: Path
    """Where it lives, and ends."""
    log: Path
    """Its own output."""

    def detach(self, fork: Fork, log: Path) -> None:
        """Start a process of its own that writes to a file. Raises LabError, OSError, TimeoutExpired."""
        with open(os.devnull, "rb") as nothing, log.open("ab") as output:
            self.spawn(fork, nothing, output, output).wait(LOAD_SECONDS)

    def run(self, fork: Fork, text: str, seconds: float) -> subprocess.CompletedProcess[str]:
        """Run a command to its end. Raises LabError, OSError, and TimeoutExpired, then it was killed."""
        with _in_memory("in") as given, _in_memory("out") as output, _in_memory("err") as errors:
            given.write(text.encode())
            given.seek(0)
            status = self.spawn(fork, given, output, errors).wait(seconds)
            words = [fork.module, *fork.words]
            return subprocess.CompletedProcess(words, status, _whole(output), _whole(errors))

    def spawn(self, fork: Fork, *streams: BinaryIO | socket.socket) -> Running:
        """Ask for a fork with these for standard input, output and error. Raises LabError, OSError."""
        data = fork.encode()
        connection = self._connection()
        try:
            socket.send_fds(connection, [data], [stream.fileno() for stream in streams])
        except OSError:
            connection.close()
            raise
        return Running(fork, connection)

    def start(self, parent: Program | None = None) -> None:
        """Start it; of `parent` it is a fork, which needs no loading. Raises LabError, OSError."""
        try:
            with self.listening() as listener, self.log.open("ab") as output:
                self._serve(listener, output, parent)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:  # then somebody else was first
                raise

    def _serve(self, listener: socket.socket, output: BinaryIO, parent: Program | None) -> None:
        if parent is not None:
            words, space = [str(self.address)], str(self.namespace)
            fork = Fork(MODULE, words, dict(os.environ), space, is_detached=True)
            parent.spawn(fork, listener, output, output).wait(LOAD_SECONDS)
            return
        command = [
            "setsid",
            "--fork",
            "nsenter",
            f"--net={self.namespace}",
            "--",
            sys.executable,
            "-m",
            MODULE,
        ]
        subprocess.run(
            [*command, str(self.address)], stdin=listener.fileno(), stdout=output, stderr=output, check=True
        )

    @contextmanager
    def listening(self) -> Iterator[socket.socket]:
        """The socket by its name, for who is to serve it; requests may come while that is loading. Raises OSError."""
        with _socket() as listener:
            os.fchmod(listener.fileno(), 0o600)  # before it has a name: bind(2) takes the mode from here
            listener.bind(str(self.address))
            listener.listen(WAITING)
            yield listener

    def _connection(self) -> socket.socket:
        for _ in range(TRIES):
            made = _socket()
            try:
                made.connect(str(self.address))
            except FileNotFoundError:
                made.close()
                self.start()
            except ConnectionRefusedError:  # it was killed
                made.close()
                self.address.unlink(missing_ok=True)
            else:
                return made
        raise LabError(f"nobody answers at {self.address}; {self.log} may say why")


def _socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _in_memory(name: str) -> BinaryIO:
    return open(os.memfd_create(name), "w+b", buffering=0)


def _whole(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode()
