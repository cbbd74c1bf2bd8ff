"""`tortie-bfd`, a process of its own: it outlives the agent, so the C bit that it sends is true (RFC 5880).

Promises: it reads no settings and no datastore; an agent says by the door which sessions there are. It asks the
kernel to run it before others, so that a busy machine is no failure to its neighbours, and goes on where that is not
granted.
Does not know: sockets, sessions, agents.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from contextlib import suppress
from pathlib import Path

from bgp.bfd.loop import Loop, log

SOCKET = Path("/run/tortie/bfd.sock")
PRIORITY = 10
"""Of SCHED_RR: above all that is not real-time, below what the kernel's own threads have."""
NICE = -15
WARNING, INFO = 4, 6
"""Of syslog(3)."""


def _hurry() -> None:
    """Run before others: by SCHED_RR, else by a nice value, else as it is."""
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(PRIORITY))
        return
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
        log(INFO, f"real-time scheduling is not permitted; nice {NICE} instead")
        return
    log(WARNING, "no higher priority is permitted: on a busy machine sessions may be lost for nothing")


def main() -> None:
    """`tortie-bfd`, or `python -m bgp.bfd`."""
    parser = argparse.ArgumentParser(prog="tortie-bfd", description="BFD for the agent of this node.")
    parser.add_argument(
        "--socket", type=Path, default=SOCKET, help="where the agent connects (default: %(default)s)"
    )
    arguments = parser.parse_args()
    _hurry()
    gc.collect()
    gc.freeze()
    try:
        Loop(arguments.socket).run()
    except OSError as error:
        sys.exit(f"tortie-bfd: {error}")


if __name__ == "__main__":
    main()
