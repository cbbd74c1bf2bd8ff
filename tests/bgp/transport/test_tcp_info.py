"""Whether the other end's kernel has acknowledged something: on a wire that is there, cut, and where nobody reads."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pytest

from bgp.transport.tcp_info import is_acknowledged, written_octets
from tests.fixtures.namespace import ip
from tests.scenes.bgp.machines import THERE, US, Machine, wire

PORT = 17914
WAIT_SECONDS = 10.0
ROUNDS = 20
"""After each acknowledgement the kernel sends some more, until the window is closed."""
PROGRAM = """
import socket, sys
listening = socket.create_server(("0.0.0.0", 17914))
print(flush=True)
one, _ = listening.accept()
for line in sys.stdin:
    if line == "read\\n":
        one.recv(1)
    one.sendall(b"x")
"""


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with wire() as made:
        yield made.machine()


@dataclass(slots=True)
class Connection:
    """Our end, and the program at the other one."""

    sock: socket.socket
    process: subprocess.Popen[bytes]

    def does(self, word: str) -> None:
        """Have it do that and say something, which acknowledges all that has come there by then."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n".encode())
        self.process.stdin.flush()
        self.sock.settimeout(WAIT_SECONDS)
        assert self.sock.recv(1) == b"x"


@contextmanager
def connected(machine: Machine) -> Iterator[Connection]:
    command = machine.command(sys.executable, "-c", PROGRAM)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            with socket.create_connection((THERE, PORT), WAIT_SECONDS, (US, 0)) as sock:
                yield Connection(sock, process)
        finally:
            process.kill()


def test_what_nobody_reads_is_acknowledged_all_the_same_and_also_behind_a_closed_window(
    machine: Machine,
) -> None:
    with connected(machine) as one:
        one.sock.sendall(b"a")
        one.does("say")
        assert is_acknowledged(one.sock, written_octets(one.sock))
        one.sock.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                one.sock.send(bytes(65536))
        written = written_octets(one.sock)
        for _ in range(ROUNDS):
            one.does("say")
        assert is_acknowledged(one.sock, written)
        assert written_octets(one.sock) == written


def test_over_a_cut_wire_nothing_is_acknowledged_until_it_is_mended(machine: Machine) -> None:
    with connected(machine) as one:
        one.sock.sendall(b"a")
        one.does("read")
        ip(f"link set {machine.link} down")
        one.sock.sendall(b"b")
        written = written_octets(one.sock)
        assert not is_acknowledged(one.sock, written)
        ip(f"link set {machine.link} up")
        one.does("read")
        assert is_acknowledged(one.sock, written)
