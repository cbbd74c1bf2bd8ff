"""Notifies the service manager: sd_notify(3), a datagram of `NAME=value` lines; the adapter.

Promises: nothing here waits or fails: without a service manager, or with one that takes no datagram now, nothing is
sent. Does not know: what is sent when.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import suppress

MOST_STATUS = 200
"""Characters of a status line: `systemctl status` shows one line."""


class Notifier:
    """The socket of the service manager that started this process, if one did."""

    def __init__(self, environment: Mapping[str, str], pid: int) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        mine = environment.get("WATCHDOG_PID", str(pid)) == str(pid)
        text = environment.get("WATCHDOG_USEC", "") if mine else ""
        self.watchdog_seconds = int(text) / 1e6 if text.isdigit() and int(text) > 0 else None
        """How long the manager waits for a sign of life before it kills; None when it does not watch."""

    def notify(self, *lines: str) -> None:
        """Send these lines as one message."""
        if not self._address:
            return
        # A leading @ names a socket of the abstract namespace, unix(7).
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with (
            suppress(OSError),
            socket.socket(
                socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            ) as out,
        ):
            out.sendto("\n".join(lines).encode(), address)

    def notify_watchdog(self, seconds: float) -> None:
        """From now on the manager waits so long for a sign of life, until told otherwise or the process has ended."""
        self.notify(f"WATCHDOG_USEC={round(seconds * 1e6)}")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self.notify(f"STATUS={' '.join(text.split())[:MOST_STATUS]}")
