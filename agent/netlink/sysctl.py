"""Sysctls of the network namespace the calling thread is in, through /proc/sys.

Promises: what was written was read back. A file of /proc answers from memory, so no call here waits.
Does not know: which switch should stand how.
"""

from __future__ import annotations

from pathlib import Path

from agent.netlink.objects import Sysctl

ROOT = Path("/proc/sys")


def read(name: str) -> str | None:
    """The value; None when there is no such switch."""
    try:
        return (ROOT / name).read_text().strip()
    except OSError:
        return None


def write(wished: Sysctl) -> str | None:
    """Set a switch; why it does not stand so, None when it does."""
    try:
        (ROOT / wished.name).write_text(wished.value)
    except OSError as error:
        return f"{wished.name}: {error.strerror}"
    stands = read(wished.name)
    return (
        None
        if stands == wished.value
        else f"{wished.name} stands at {stands} after {wished.value} was written"
    )
