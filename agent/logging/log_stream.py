"""Standard error as a log's last resort: a line that would have to wait is lost, and counted.

Strategy. Whoever reads our standard error (a pipe, a terminal, journald's socket) may stop reading; its flags are not
ours alone to change. So poll(2) is asked before each piece of at most PIPE_BUF octets, which then fits without waiting.
Promises: `write` never waits for a reader and raises nothing; the first line that gets through says how many did not.
Does not know: what is logged. A regular file on a disk that hangs is waited for: no poll tells.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from contextlib import suppress

from agent.trouble import Trouble, TroubleKind

MOST_LINE_BYTES = 64 << 10
PIECE_BYTES = select.PIPE_BUF


class LogStream:
    """One descriptor that takes lines."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._is_cut = False
        """Whether the last line stands there without its end."""
        self._missing = 0
        """Lines lost since the last one that got through."""
        self.lost = 0
        """Lines lost since the start."""

    def write(self, line: str) -> None:
        """Write a line, or count it as lost."""
        data = line.encode(errors="backslashreplace")[:MOST_LINE_BYTES] + b"\n"
        if self._missing:
            data = f"level=warning event=log.lines_lost count={self._missing}\n".encode() + data
        if self._is_cut:
            data = b"\n" + data
        if self._written(data):
            self._missing = 0
        else:
            self._missing += 1
            self.lost += 1

    def troubles(self) -> Iterator[Trouble]:
        """That nobody takes what is logged."""
        if self._missing:
            evidence = f"standard error takes nothing: {self._missing} lines are lost"
            yield Trouble(TroubleKind.LOG, "the log", evidence, "what happens now is in no log", "read it")

    def _written(self, data: bytes) -> bool:
        sent = 0
        with suppress(OSError):
            while sent < len(data):
                if not any(event & select.POLLOUT for _, event in self._poll.poll(0)):
                    break
                sent += os.write(self._descriptor, data[sent : sent + PIECE_BYTES])
        if sent:
            self._is_cut = not data[:sent].endswith(b"\n")
        return sent == len(data)
