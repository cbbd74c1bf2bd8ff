"""Opens things inside another network namespace: enter, open, leave, with nothing in between that could wait.

Promises: after `entered` the calling thread is back in its own namespace, or the process dies: a thread that works on
in the wrong namespace would program the wrong machine. Does not know: what is opened.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLONE_NEWNET = 0x40000000
"""linux/sched.h."""
HOME = Path("/proc/thread-self/ns/net")

_libc = ctypes.CDLL(None, use_errno=True)


def _setns(descriptor: int) -> None:
    # os.setns exists from Python 3.12 on only.
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def enter(namespace: Path | str) -> None:
    """Be in a network namespace from now on, with the threads that the calling thread will start. Raises OSError."""
    with Path(namespace).open("rb", buffering=0) as there:
        _setns(there.fileno())


@contextmanager
def entered(namespace: Path | str) -> Iterator[None]:
    """Be in a network namespace for the length of a `with` block that must not await. Raises OSError."""
    with Path(namespace).open("rb", buffering=0) as there, HOME.open("rb", buffering=0) as home:
        _setns(there.fileno())
        try:
            yield
        finally:
            _return(home.fileno())


def _return(home: int) -> None:
    try:
        _setns(home)
    except OSError as error:
        sys.stderr.write(f"cannot return to the own network namespace: {error}\n")
        os._exit(70)  # EX_SOFTWARE: see the module's promise
