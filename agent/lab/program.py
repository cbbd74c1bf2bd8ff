"""Runs a lab's agents and commands as forks of one process that has loaded the program: `python -m agent.lab.program`.

Most of a start is the loading of the program, 0.7 s of a core. So it is loaded once for a lab, and each agent, and each
command that the lab runs itself, is a fork of that: in its own network namespace, with its own environment and files.
What they do not change they share. It is asked over a socket (forks.py), which is its standard input.

Promises: an agent is a process of its own, child of nobody here, that is named and starts itself anew (`tortie reload`)
as one that was started by `python -m agent.daemon`; a command is ended when who asked for it has gone; before a fork
there is no thread and no event loop here. Does not know: what is asked, and whether it comes up.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import select
import signal
import socket
import sys
import traceback
from contextlib import suppress
from pathlib import Path

from agent import daemon  # noqa: F401 - loaded for those who are forked
from agent.datastore.resources import documents  # noqa: F401 - the same, for `tortie apply`
from agent.lab.forks import MOST_REQUEST_BYTES, STREAMS, Fork
from agent.netlink.namespaces import enter


def _received(connection: socket.socket) -> tuple[Fork, list[int]]:
    data, files, _, _ = socket.recv_fds(connection, MOST_REQUEST_BYTES, STREAMS)
    if len(files) != STREAMS:
        raise ValueError(f"{len(files)} streams in place of {STREAMS}")
    return Fork.decode(data), files


def _become(fork: Fork, files: list[int]) -> None:
    """Take on what was asked for, but for the running of it."""
    if fork.is_detached:
        os.setsid()
    for stream, descriptor in enumerate(files):
        os.dup2(descriptor, stream)
        os.close(descriptor)
    if fork.namespace:
        enter(fork.namespace)  # what goes wrong from here on is in the log
    os.chdir(fork.directory)
    os.environ.clear()
    os.environ.update(fork.environment)
    sys.orig_argv = [sys.executable, "-m", fork.module, *fork.words]
    show_as(sys.orig_argv)


def show_as(words: list[str]) -> None:
    """Have ps(1) and /proc/PID/cmdline show these words, cut to the room that those of its start take (proc(5))."""
    with suppress(OSError, ValueError, IndexError):
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        start, end = (int(fields[number - 3]) for number in (48, 49))  # arg_start and arg_end, counted from 1
        room = end - start
        ctypes.memmove(start, "\0".join(words).encode()[: room - 1].ljust(room, b"\0"), room)


def _attended(child: int, connection: socket.socket) -> int:
    """Wait for a command; it is killed when who asked has gone. Its exit status."""
    ended = os.pidfd_open(child)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(connection, select.POLLRDHUP)
    if all(descriptor != ended for descriptor, _ in poll.poll()):
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _forked(connection: socket.socket) -> Fork:
    """Fork once more for what is asked, and answer; returns only in the process that is to run it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        fork, files = _received(connection)
        child = os.fork()
        if child:
            for descriptor in files:
                os.close(descriptor)
            status = 0 if fork.is_detached else _attended(child, connection)
            connection.send(str(status).encode())
    except (OSError, ValueError):
        traceback.print_exc()
        os._exit(1)
    if child:
        os._exit(0)
    connection.close()
    _become(fork, files)
    return fork


def serve(listener: socket.socket) -> Fork:
    """Fork for each connection, for ever; what to run, in a process that is to run it."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            return _forked(connection)
        connection.close()


def main() -> None:
    """Serve the socket that is standard input, for ever; in a fork, run what was asked for."""
    listener = socket.socket(fileno=os.dup(0))
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    gc.collect()
    gc.freeze()
    fork = serve(listener)
    module = importlib.import_module(fork.module)
    sys.argv = [str(module.__file__), *fork.words]
    module.main()


if __name__ == "__main__":
    main()
