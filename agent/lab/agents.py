"""Starts a lab's agents out of one process that has loaded the program: `python -m agent.lab.agents` < JSON.

Most of an agent's start is the loading of it, 0.4 s of a core. So it is loaded once, and each agent is a fork of that,
in its own network namespace, session and environment, writing to its own log; what they do not change they share.

Promises: when this program ends well, each agent is a process of its own, child of nobody here; it starts itself anew
(`tortie reload`) as one that was started by `python -m agent.daemon`. Does not know: whether they come up.
"""

from __future__ import annotations

import json
import os
import sys

from agent import daemon
from agent.lab.lab_processes import Start
from agent.netlink.namespaces import enter
from bgp.bfd import __main__ as bfd

PROGRAMS = {"agent.daemon": daemon.main, "bgp.bfd": bfd.main}
"""By module: what a start may be."""


def _become(start: Start) -> None:
    """The rest of a forked process's life."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(start.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    for descriptor, stream in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, stream)
    enter(start.namespace)  # what goes wrong from here on is in the log
    os.environ.update(start.environment)
    sys.argv = [start.module, *start.arguments]
    sys.orig_argv = [sys.executable, "-m", start.module, *start.arguments]
    PROGRAMS[start.module]()


def main() -> None:
    """Fork an agent for each start in standard input."""
    for start in [Start(**each) for each in json.load(sys.stdin)]:
        if os.fork() == 0:
            _become(start)
            return


if __name__ == "__main__":
    main()
