"""The native protocol of journald: one datagram of fields per event, without a library.

Promises: pure but for the socket in `JournalLogger`; field names are those that journald accepts; a value of any kind
and length is sent bounded. Does not know: structlog's set-up.
Reference: systemd's docs/JOURNAL_NATIVE_PROTOCOL.md.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from agent.logging.log_stream import LogStream

SOCKET = Path("/run/systemd/journal/socket")
MOST_FIELD_BYTES = 8 << 10
MOST_FIELDS = 30
NOT_IN_NAME = re.compile(r"[^A-Z0-9_]")
LONGEST_NAME = 64
"""journald drops a field with a longer name (journal_field_valid)."""
EVENT_NAMESPACE = uuid.UUID("6f1d8b0e-5a1c-4f2e-9c1b-7d5f0a3e2b44")
"""The name space of MESSAGE_ID: each kind of event has one that never changes."""
PREFIX = "TORTIE_"


def message_id(event: str) -> str:
    """The kind of an event, as `journalctl MESSAGE_ID=` takes it."""
    return uuid.uuid5(EVENT_NAMESPACE, event).hex


def datagram(message: str, priority: int, event: Mapping[str, object]) -> bytes:
    """An event as a datagram: MESSAGE for people, and each of its fields as TORTIE_NAME."""
    fields = {
        "MESSAGE": message,
        "PRIORITY": str(priority),
        "SYSLOG_IDENTIFIER": "tortie-agent",
        "MESSAGE_ID": message_id(str(event.get("event", ""))),
    }
    for name, value in list(event.items())[:MOST_FIELDS]:
        fields[(PREFIX + NOT_IN_NAME.sub("_", name.upper()))[:LONGEST_NAME]] = str(value)
    return b"".join(_field(name, value) for name, value in fields.items())


def _field(name: str, value: str) -> bytes:
    data = value.encode(errors="replace")[:MOST_FIELD_BYTES]
    if b"\n" in data:
        return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
    return name.encode() + b"=" + data + b"\n"


def is_journal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether a stream goes to journald itself: JOURNAL_STREAM of systemd.exec(5) names its device and inode."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class JournalLogger:
    """A logger for structlog; an event that journald does not accept goes to the stream, its priority first."""

    def __init__(self, path: Path, stream: LogStream) -> None:
        self._path = str(path)
        self._stream = stream
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def msg(self, data: bytes, priority: int, text: str) -> None:
        """Send one event; never waits."""
        try:
            self._socket.sendto(data, self._path)
        except OSError:
            self._stream.write(f"<{priority}>{text}")

    debug = info = warning = error = critical = msg
