"""`python -m tests.scenes.cli.walk`: every command in every bad place, each in a fork of its own; JSON lines.

Promises: the machine is not touched: a command that takes itself for root is nobody in a user namespace, with an empty
network of its own. Does not know: what a command should say.
"""

from __future__ import annotations

import ctypes
import fcntl
import importlib
import io
import json
import os
import shlex
import signal
import socket
import struct
import sys
import traceback
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from agent.cli.main import main as tortie
from tests.scenes.cli.cli_examples import commands, lines

NOBODY = 65534
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
PR_SET_DUMPABLE = 4
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
"""sched.h; os.unshare came with Python 3.12."""
END_SECONDS = 30
MOST_OUTPUT = 1 << 20
AT_ONCE = 48
LOADED = (
    "agent.cli.field_paths",
    "agent.configuration.loading",
    "agent.control",
    "agent.datastore.etcd_settings",
    "agent.datastore.writing.resource_writer",
    "agent.lab.lifecycle",
    "agent.service.install",
    "ipam.etcd.client",
    "ipam.etcd.dry_run_store",
)
"""What commands import when they run; a fork has it already."""


def words_of(name: str, epilog: str | None) -> list[str]:
    """A command as its own first example shows it."""
    shown = next(line for line in lines(epilog) if line.startswith(f"tortie {name}"))
    return shlex.split(shown.partition(" | ")[0])[1:]


def become(user: bool) -> None:
    """Nobody, who is root of namespaces of his own if `user` is false."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # else /proc/self stays root's
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    with socket.socket(
        socket.AF_INET, socket.SOCK_DGRAM
    ) as link:  # so that a port without a listener refuses
        fcntl.ioctl(link, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
    mine = f"{NOBODY if user else 0} {NOBODY} 1"
    for name, text in (("setgroups", "deny"), ("uid_map", mine), ("gid_map", mine)):
        Path(f"/proc/self/{name}").write_text(text)


def nowhere() -> None:
    """Standard output as it is."""


def closed() -> None:
    """Nothing at descriptor 1."""
    sys.stdout = None  # type: ignore[assignment]  # as the interpreter has it when descriptor 1 is closed
    os.close(1)


def full() -> None:
    """No space is left for what is printed."""
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def narrow() -> None:
    """A terminal of forty columns."""
    os.environ["COLUMNS"] = "40"


def plain() -> None:
    """As with LANG=C where Python is not told to take UTF-8 all the same."""
    os.environ.update(LANG="C", LC_ALL="C")
    for stream in (sys.stdout, sys.stderr):
        assert isinstance(stream, io.TextIOWrapper)
        stream.reconfigure(encoding="ascii", errors="strict")


def no_input() -> None:
    """Nothing to read."""
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)


PLACES: dict[str, tuple[bool, Callable[[], None]]] = {
    "not root": (True, nowhere),
    "no agent and no etcd": (False, nowhere),
    "closed standard output": (False, closed),
    "full disk": (False, full),
    "forty columns": (False, narrow),
    "a terminal of ASCII": (False, plain),
    "not root and a full disk": (True, full),
    "no input": (False, no_input),
}
"""What a place is called -> whether the user is not root, and what is done to the process there."""


class Started(NamedTuple):
    """A command that runs in a fork, and where its standard error comes out."""

    place: str
    words: list[str]
    child: int
    reader: int


def start(place: str, words: list[str]) -> Started:
    """A command in that place."""
    user, prepare = PLACES[place]
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        return Started(place, words, child, reader)
    signal.alarm(END_SECONDS)
    os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
    os.dup2(writer, 2)
    become(user)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    prepare()
    code: object = 0
    try:
        tortie(words)
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        os.write(2, traceback.format_exc().encode())
        code = 70
    if isinstance(code, str):  # as the interpreter does at the end of a process
        os.write(2, f"{code}\n".encode())
        code = 1
    os._exit(int(str(code or 0)))


def ended(one: Started) -> dict[str, object]:
    """What became of it: exit code (negative: by a signal) and standard error."""
    said = b""
    while piece := os.read(one.reader, 1 << 16):
        said = (said + piece)[:MOST_OUTPUT]
    os.close(one.reader)
    _, status = os.waitpid(one.child, 0)
    code = os.waitstatus_to_exitcode(status)
    return {"place": one.place, "words": one.words, "code": code, "said": said.decode(errors="replace")}


def main() -> None:
    """The entry point."""
    for module in LOADED:
        importlib.import_module(module)
    waiting: deque[Started] = (
        deque()
    )  # commands wait for an etcd that is not there: side by side they wait once
    for place in PLACES:
        for name, parser in commands():
            waiting.append(start(place, words_of(name, parser.epilog)))
            if len(waiting) == AT_ONCE:
                print(json.dumps(ended(waiting.popleft())), flush=True)
    for one in waiting:
        print(json.dumps(ended(one)), flush=True)


if __name__ == "__main__":
    main()
