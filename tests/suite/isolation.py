"""A machine's copy for one shard: network, mounts, processes, host name and environment of its own.

Promises: two shards, two runs of the suite, or a run beside a lab do not see each other; what a shard writes is in
memory and gone with it, and so is every process it started; nothing of the caller's environment reaches it but what
is named here. Does not know: what is run.
"""

from __future__ import annotations

import os
import resource
import signal
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
LIMITS = {
    resource.RLIMIT_NOFILE: 1024,
    resource.RLIMIT_STACK: 8 << 20,
    resource.RLIMIT_NPROC: resource.RLIM_INFINITY,
    resource.RLIMIT_FSIZE: resource.RLIM_INFINITY,
    resource.RLIMIT_AS: resource.RLIM_INFINITY,
}
"""The soft limits that Debian's systemd gives a service; as far as the hard ones go, which not every root may raise."""


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
    for limit, wanted in LIMITS.items():
        _, hard = resource.getrlimit(limit)
        # Infinity is -1 here, so that it compares as the least.
        soft = min((value for value in (wanted, hard) if value != resource.RLIM_INFINITY), default=hard)
        resource.setrlimit(limit, (soft, hard))
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) is signal.SIG_IGN:  # nohup's, or a shell's of its background jobs
            signal.signal(number, signal.SIG_DFL)
