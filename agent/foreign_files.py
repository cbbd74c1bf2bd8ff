"""Reads files that somebody else may have put in place: never waits for another process, never more than a bound.

Promises: what is opened was looked at first (O_PATH opens nothing): a FIFO would wait for its writer, a device may act
when it is opened (a watchdog, a tape). What is no regular file, or is too large, is an OSError that says so; so is all
else that is wrong. A file system that does not answer is waited for.
Does not know: what is in a file.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a symbolic link",
}
NULL_DEVICE = os.makedev(1, 3)
"""/dev/null, which is an empty file to everybody: a link to it masks one (systemd.unit(5))."""
PART_BYTES = 1 << 20


class Unfit(OSError):
    """No regular file, or one that is larger than its reader takes: it stays so until somebody changes it."""

    def __init__(self, path: Path | str, why: str) -> None:
        super().__init__(errno.EINVAL, why, str(path))


def looked_at(path: Path | str, *, follow: bool = True) -> int:
    """A descriptor that names what is at a path and has not opened it. Raises OSError, also for a NUL in the path."""
    try:
        return os.open(path, os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    except ValueError as error:
        raise Unfit(
            path, "a path with a NUL names no file"
        ) from error  # Python's own words differ from one to the next


def opened(looked: int) -> int:
    """What `looked_at` named, opened to be read; it never waits. Raises OSError."""
    return os.open(f"/proc/self/fd/{looked}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)


def open_file(path: Path | str, *, follow: bool = True) -> int:
    """A regular file (or /dev/null), opened to be read. Raises Unfit for everything else, OSError."""
    looked = looked_at(path, follow=follow)
    try:
        found = os.fstat(looked)
        kind = stat.S_IFMT(found.st_mode)
        is_null = kind == stat.S_IFCHR and found.st_rdev == NULL_DEVICE
        if kind != stat.S_IFREG and not is_null:
            raise Unfit(path, f"{KINDS.get(kind, 'something')} where a file should be")
        return opened(looked)
    finally:
        os.close(looked)


def read_file(path: Path | str, most: int, *, follow: bool = True) -> bytes:
    """What a regular file holds, `most` bytes at most. Raises Unfit, OSError."""
    descriptor = open_file(path, follow=follow)
    try:
        return read_opened(path, descriptor, most)
    finally:
        os.close(descriptor)


def read_opened(path: Path | str, descriptor: int, most: int) -> bytes:
    """The rest of an opened file, `most` bytes at most. Raises Unfit, OSError."""
    data = bytearray()
    while part := os.read(descriptor, min(PART_BYTES, most + 1 - len(data))):
        data += part
        if len(data) > most:
            raise Unfit(path, f"larger than {most} bytes")
    return bytes(data)
