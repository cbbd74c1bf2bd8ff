"""A machine's copy for one shard: network, mounts, processes, host name and environment of its own.

Promises: two shards, two runs of the suite, or a run beside a lab do not see each other; what a shard writes is in
memory and gone with it, and so is every process it started; nothing of the caller's environment reaches it but what
is named here. Does not know: what is run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

INIT = Path(__file__).parent / "init"
SHARED = Path("/var/cache/tortie-tests")
"""What all runs on this machine have in common: roots of Debian, locks."""
KEPT = ("CI", "TERM")
"""Of the caller's environment; not LANG, nor a proxy, nor another Python's path."""
OWN = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "USER": "root",
    "LANG": "C.UTF-8",
}
UMASK = 0o022


def environment(callers: Mapping[str, str]) -> dict[str, str]:
    """What a shard is given of its caller's environment."""
    return {**{name: callers[name] for name in KEPT if name in callers}, **OWN}


def isolated(command: list[str], work: Path) -> list[str]:
    """The command as it runs on a machine's copy, which is built on the empty directory `work`; needs root.

    It is ended, with all it started, by killing the process that this starts.
    """
    SHARED.mkdir(parents=True, exist_ok=True)
    spaces = ["--net", "--mount", "--pid", "--ipc", "--uts", "--propagation", "private"]
    return ["unshare", *spaces, "--fork", "--kill-child=KILL", str(INIT), str(work), str(SHARED), *command]


def prepare() -> None:
    """Called in the child before it becomes the command: what is no part of an environment."""
    os.umask(UMASK)
