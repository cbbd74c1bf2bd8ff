"""Hears of writes to sysctls: inotify(7) works on /proc/sys, and for most switches the kernel has no other word.

Promises: at most one watch per followed switch; where inotify is exhausted, nothing is heard and the periodic reading
remains. Our own writes are heard too. Does not know: which value is right.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Collection, Iterable

from agent.dataplane.procfs import ROOT

IN_MODIFY, IN_Q_OVERFLOW = 0x2, 0x4000
EVENTS_BYTES = 1 << 16
_EVENT = struct.Struct("=iIII")
"""inotify_event: watch, mask, cookie, length of the name that follows."""

_libc = ctypes.CDLL(None, use_errno=True)


class SwitchWatch:
    """One inotify descriptor."""

    def __init__(self) -> None:
        self._descriptor: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._watches: dict[str, int] = {}

    @property
    def works(self) -> bool:
        """Whether there is a descriptor to wait for."""
        return self._descriptor >= 0

    def fileno(self) -> int:
        """For the loop."""
        return self._descriptor

    def close(self) -> None:
        """Stop hearing."""
        if self.works:
            os.close(self._descriptor)
            self._descriptor = -1

    def follow(self, names: Iterable[str]) -> None:
        """Hear of these, too; one whose device was made anew is another file under the same name."""
        if not self.works:
            return
        for name in names:
            watch = _libc.inotify_add_watch(self._descriptor, os.fsencode(ROOT / name), IN_MODIFY)
            if watch >= 0 and watch != self._watches.get(name):
                self._leave(name)
                self._watches[name] = watch

    def only(self, names: Collection[str]) -> None:
        """Hear of no others any more."""
        for name in self._watches.keys() - set(names):
            self._leave(name)

    def _leave(self, name: str) -> None:
        watch = self._watches.pop(name, None)
        if watch is not None:
            _libc.inotify_rm_watch(self._descriptor, watch)

    def heard(self) -> bool:
        """Whether something was written since the last call."""
        try:
            data = os.read(self._descriptor, EVENTS_BYTES)
        except BlockingIOError:
            return False
        written, offset = False, 0
        while offset + _EVENT.size <= len(data):
            _, mask, _, length = _EVENT.unpack_from(data, offset)
            written = written or bool(mask & (IN_MODIFY | IN_Q_OVERFLOW))
            offset += _EVENT.size + length
        return written
