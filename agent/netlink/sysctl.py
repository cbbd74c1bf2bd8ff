"""Sysctls of the network namespace the calling thread is in, through /proc/sys, and who else writes to them.

Promises: what was written was read back; a file of /proc answers from memory, so no call here waits; at most one watch
per followed sysctl. Does not know: which value is right.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Collection, Iterable
from pathlib import Path

from agent.netlink.objects import Sysctl

ROOT = Path("/proc/sys")
IN_MODIFY, IN_Q_OVERFLOW = 0x2, 0x4000
LONGEST_BYTES = 4096
"""Of a value: a page, the most that proc(5) gives in one read."""
EVENTS_BYTES = 1 << 16
_EVENT = struct.Struct("=iIII")
"""inotify_event: watch, mask, cookie, length of the name that follows."""

_libc = ctypes.CDLL(None, use_errno=True)


def read(name: str) -> str | None:
    """The value; None when there is no such sysctl."""
    try:
        opened = os.open(f"{ROOT}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(opened, LONGEST_BYTES).decode(errors="replace").strip()
    except OSError:
        return None
    finally:
        os.close(opened)


def write(wanted: Sysctl) -> str | None:
    """Set a sysctl; why it does not have the value, None when it has."""
    try:
        opened = os.open(f"{ROOT}/{wanted.name}", os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        try:
            os.write(opened, wanted.value.encode())
        finally:
            os.close(opened)
    except OSError as error:
        return f"{wanted.name}: {error.strerror}"
    now = read(wanted.name)
    return None if now == wanted.value else f"{wanted.name} is {now} after {wanted.value} was written"


class SysctlWatch:
    """Writes to followed sysctls, our own among them.

    inotify(7) works on /proc/sys, and for most sysctls the kernel has no other notification. Where inotify is exhausted
    there is none, and the periodic reading remains.
    """

    def __init__(self) -> None:
        self._descriptor: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._watches: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._of: dict[str, set[str]] = {}
        """Interface -> its followed sysctls."""

    @property
    def works(self) -> bool:
        """Whether there is a descriptor to wait for."""
        return self._descriptor >= 0

    def fileno(self) -> int:
        """For the loop."""
        return self._descriptor

    def close(self) -> None:
        """Stop watching."""
        if self.works:
            os.close(self._descriptor)
            self._descriptor = -1

    def follow(self, names: Iterable[str]) -> None:
        """Watch these, too; one whose device was made anew is another file under the same name."""
        if not self.works:
            return
        for name in names:
            watch = _libc.inotify_add_watch(self._descriptor, os.fsencode(ROOT / name), IN_MODIFY)
            if watch >= 0 and watch != self._watches.get(name):
                self._unwatch(name)
                self._watches[name], self._names[watch] = watch, name
                self._of.setdefault(_interface(name), set()).add(name)

    def only(self, names: Collection[str]) -> None:
        """Watch no others any more."""
        for name in self._watches.keys() - set(names):
            self._unwatch(name)

    def _unwatch(self, name: str) -> None:
        watch = self._watches.pop(name, None)
        if watch is not None:
            self._names.pop(watch, None)
            mine = self._of.get(_interface(name), set())
            mine.discard(name)
            if not mine:
                self._of.pop(_interface(name), None)
            _libc.inotify_rm_watch(self._descriptor, watch)

    def of(self, interface: str) -> frozenset[str]:
        """The followed sysctls of an interface."""
        return frozenset(self._of.get(interface, ()))

    def written(self) -> frozenset[str] | None:
        """The sysctls that were written to since the last call; None: some, and it is not known which."""
        try:
            data = os.read(self._descriptor, EVENTS_BYTES)
        except BlockingIOError:
            return frozenset()
        names, offset, lost = set[str](), 0, False
        while offset + _EVENT.size <= len(data):
            watch, mask, _, length = _EVENT.unpack_from(data, offset)
            lost = lost or bool(mask & IN_Q_OVERFLOW)
            if mask & IN_MODIFY and watch in self._names:
                names.add(self._names[watch])
            offset += _EVENT.size + length
        return None if lost else frozenset(names)


def _interface(name: str) -> str:
    """The interface of net/ipv4/conf/INTERFACE/forwarding and its like; empty for a sysctl of the whole host."""
    parts = name.split("/")
    return parts[3] if len(parts) == 5 else ""
