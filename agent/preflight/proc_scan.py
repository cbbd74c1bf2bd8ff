"""Reads who runs in this network namespace, and who listens, from /proc.

Promises: reads only; a process that ends meanwhile, or may not be looked at, is left out. Does not know: what a
program's name means.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv6Address, ip_address
from pathlib import Path

from agent.foreign_files import read_file
from agent.preflight.host_facts import ListeningSocket, Process

MOST_PROCESSES = 100_000
MOST_FILE_BYTES = 64 << 20
"""/proc/net/tcp has 150 bytes for each socket."""
LISTENING = "0A"
"""TCP_LISTEN of net/tcp_states.h, as /proc/net/tcp prints it."""
SOCKET = re.compile(r"socket:\[(\d+)\]")
UNIT = re.compile(r"/([^/]+\.service)(?:/|$)")
INTERPRETER = re.compile(r"python[\d.]*|sh|bash|dash|perl")
COMM_LENGTH = 15
"""TASK_COMM_LEN of linux/sched.h without its end."""
MODULES = {"agent.daemon": "tortie-agent"}
"""A program started by its module's name -> its own name."""


def scan_processes(proc: Path) -> tuple[Process, ...]:
    """The programs of the caller's network namespace, by pid; kernel threads are left out."""
    home = _link(proc / "thread-self/ns/net")
    found = []
    for number, directory in enumerate(proc.glob("[0-9]*")):
        if number == MOST_PROCESSES:
            break
        there = _link(directory / "ns/net")
        if home is not None and there is not None and there != home:
            continue
        name = _name(directory)
        if name:
            found.append(Process(int(directory.name), name, _unit(directory)))
    return tuple(sorted(found, key=lambda one: one.pid))


def _link(path: Path) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None


def file_text(path: Path) -> str:
    """What a file holds; empty when it cannot be read."""
    try:
        return read_file(path, MOST_FILE_BYTES).decode(errors="replace")
    except OSError:
        return ""


def _name(directory: Path) -> str:
    """The program's name: a script's own, not its interpreter's; in full where the kernel has cut it."""
    words = file_text(directory / "cmdline").split("\0")
    comm = file_text(directory / "comm").strip()
    if not words[0]:
        return "" if not comm or _link(directory / "exe") is None else comm
    if INTERPRETER.fullmatch(Path(words[0]).name) and len(words) > 1:
        if words[1] == "-m":
            return MODULES.get(words[2], words[2]) if len(words) > 2 else comm
        if words[1] == "-c":
            return comm
        script = next((word for word in words[1:] if word and not word.startswith("-")), comm)
        return Path(script).name
    whole = Path(words[0]).name.rstrip(":")
    return whole if len(comm) == COMM_LENGTH and whole.startswith(comm) else comm or whole


def _unit(directory: Path) -> str | None:
    found = UNIT.search(file_text(directory / "cgroup"))
    return found[1] if found else None


def scan_listeners(proc: Path, port: int, known: Iterable[Process]) -> tuple[ListeningSocket, ...]:
    """The TCP sockets that listen on this port, with their processes."""
    found = [
        row
        for name in ("tcp", "tcp6")
        for row in _sockets(file_text(proc / "thread-self/net" / name))
        if row[1] == port
    ]
    owners = _owners(proc, {inode for _, _, inode in found}, known) if found else {}
    return tuple(ListeningSocket(address, port, owners.get(inode)) for address, _, inode in found)


def _sockets(table: str) -> Iterator[tuple[str, int, str]]:
    for line in table.splitlines()[1:]:
        words = line.split()
        if len(words) > 9 and words[3] == LISTENING:
            address, _, port = words[1].partition(":")
            yield _address(address), int(port, 16), words[9]


def _address(text: str) -> str:
    """Words of 32 bits in the machine's order, which is the little end first wherever this runs."""
    octets = b"".join(bytes.fromhex(text[start : start + 8])[::-1] for start in range(0, len(text), 8))
    return str(ip_address(octets) if len(octets) == 4 else IPv6Address(octets))


def _owners(proc: Path, inodes: set[str], known: Iterable[Process]) -> Mapping[str, Process]:
    found: dict[str, Process] = {}
    for process in known:
        try:
            descriptors = [os.readlink(path) for path in (proc / str(process.pid) / "fd").iterdir()]
        except OSError:
            continue
        for target in descriptors:
            socket = SOCKET.fullmatch(target)
            if socket and socket[1] in inodes:
                found[socket[1]] = process
    return found


def open_files(proc: Path, pid: int) -> int | None:
    """A process's soft limit of open files."""
    found = re.search(r"^Max open files\s+(\d+)", file_text(proc / str(pid) / "limits"), re.MULTILINE)
    return int(found[1]) if found else None
