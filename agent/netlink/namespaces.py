"""Opens things inside another network namespace: enter, open, leave, with nothing in between that could wait.

Promises: after `entered` the calling thread is back in its own namespace, or the process dies: a thread that works on
in the wrong namespace would program the wrong machine. What a path names is looked at before it is opened: a FIFO, a
device or another kind of namespace is an OSError that says so, at once. Does not know: what is opened.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agent.foreign_files import Unfit, looked_at, opened

CLONE_NEWNET = 0x40000000
"""linux/sched.h."""
NS_GET_NSTYPE = 0xB703
"""linux/nsfs.h, since Linux 4.11: which kind of namespace an opened file is."""
HOME = Path("/proc/thread-self/ns/net")
MACHINE = Path("/proc/1/ns/net")
"""The machine's own, also where the agent lives in another one."""

_libc = ctypes.CDLL(None, use_errno=True)


def _setns(descriptor: int) -> None:
    # os.setns exists from Python 3.12 on only.
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def open_namespace(path: Path | str) -> int:
    """A network namespace, held open. Raises OSError, of which Unfit for what is none."""
    looked = looked_at(path)
    try:
        # All namespaces lie on one file system of the kernel's (nsfs), and nothing else does.
        if os.fstat(looked).st_dev != os.stat(HOME).st_dev:
            raise Unfit(path, "no network namespace")
        there = opened(looked)
    finally:
        os.close(looked)
    try:
        if fcntl.ioctl(there, NS_GET_NSTYPE) == CLONE_NEWNET:
            return there
        why: OSError = Unfit(path, "a namespace, but none of the network")
    except OSError as error:
        if error.errno == errno.ENOTTY:  # an older kernel: setns(2) will say so
            return there
        why = error
    os.close(there)
    raise why


def is_hosts(namespace: int) -> bool:
    """Whether an opened namespace is the one that this process lives in, or the machine's first."""
    found = os.fstat(namespace).st_ino
    for hosts in (HOME, MACHINE):
        with suppress(OSError):
            if os.stat(hosts).st_ino == found:
                return True
    return False


def enter(namespace: Path | str) -> None:
    """Be in a network namespace from now on, with the threads that the calling thread will start. Raises OSError."""
    there = open_namespace(namespace)
    try:
        _setns(there)
    finally:
        os.close(there)


@contextmanager
def entered(namespace: Path | str | int) -> Iterator[None]:
    """Be in a network namespace for the length of a `with` block that must not await. Raises OSError.

    One that is open already is named by its descriptor, and stays open.
    """
    there = namespace if isinstance(namespace, int) else open_namespace(namespace)
    try:
        with HOME.open("rb", buffering=0) as home:
            _setns(there)
            try:
                yield
            finally:
                _return(home.fileno())
    finally:
        if not isinstance(namespace, int):
            os.close(there)


def _return(home: int) -> None:
    try:
        _setns(home)
    except OSError as error:
        sys.stderr.write(f"cannot return to the own network namespace: {error}\n")
        os._exit(70)  # EX_SOFTWARE: see the module's promise
