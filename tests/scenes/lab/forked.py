"""What a fork of the loaded program sees of itself, as JSON: what tests of that run."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def parent(pid: int | str) -> int:
    """A process's parent."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def main() -> None:
    """Say it, read all of the input, and end with the exit status that is the first word."""
    seen = {
        "words": sys.argv[1:],
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "namespace": os.readlink("/proc/self/ns/net"),
        "shown": Path("/proc/self/cmdline").read_text().rstrip("\0").split("\0"),
        "open": sorted(map(int, os.listdir("/proc/self/fd")))[:-1],  # the last one is of this very look
        "leads_session": os.getsid(0) == os.getpid(),
        "program": parent(os.getppid()),
    }
    print(json.dumps(seen), flush=True)
    print(sys.stdin.read(), file=sys.stderr)
    sys.exit(int(sys.argv[1]))
