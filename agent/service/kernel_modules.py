"""The one kernel module that is seen from outside: with ipip comes a tunl0 that nobody can delete.

Promises: it goes only when tunl0 was not there before the first installation, and no other tunnel of its kind is here.
Does not know: who loaded it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping

from agent.netlink.objects import TUNL0, Link, TunnelKind
from agent.service.host_snapshot import Snapshot

MODULE = "ipip"
UNLOAD_SECONDS = 30.0
_OLD_TUNL0 = re.compile(rf"\d+: {TUNL0}[@:]")


def superfluous(before: Snapshot, links: Mapping[str, Link]) -> bool:
    """Whether the module came after the first installation and serves nobody else in this namespace."""
    if "links" not in before or any(_OLD_TUNL0.match(line) for line in before["links"]):
        return False
    return [name for name, link in links.items() if link.kind == TunnelKind.IPIP.value] == [TUNL0]


def unload() -> str:
    """Take the module out; what came of it, in a sentence. A kernel that has it built in keeps its tunl0."""
    program = shutil.which("modprobe")
    if program is None:
        return f"{TUNL0}: stays, down and bare: there is no modprobe to unload {MODULE} with"
    words = [program, "-r", MODULE]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=UNLOAD_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{TUNL0}: stays, down and bare: modprobe -r {MODULE}: {error}"
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        return f"{TUNL0}: stays, down and bare: {said[-1] if said else f'modprobe -r {MODULE} failed'}"
    return f"module {MODULE}: unloaded, and with it {TUNL0}, which was not here before"
