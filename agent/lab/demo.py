"""A lab that shows the main job: three nodes, eight pods, pings, and the pool's mode changed live.

Promises: prints what really happened; a lost ping ends it with an error; a lab that is up is let alone, whatever its
name. Does not know: how a lab works.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from agent.lab import lab_processes, lifecycle, show
from agent.lab.fabric import has_ipip
from agent.lab.lab_plan import ROOT, LabError, Mode
from agent.lab.lab_processes import ip_route
from agent.lab.lifecycle import Lab
from agent.lab.pods import add_pod, pods

NODES = 3
PODS = 8
SETTLE_SECONDS = 20.0
MOST_DEMOS = 20
"""At once on one machine."""

Say = Callable[[str], None]


@contextmanager
def free_name(chosen: str | None) -> Iterator[str]:
    """A name that no lab bears, nobody else's while the block runs: the chosen one, or `demo`, `demo2` and so on.

    Raises LabError where there is none.
    """
    lifecycle.require_root()
    names = [chosen] if chosen else ["demo", *(f"demo{number}" for number in range(2, MOST_DEMOS + 1))]
    ROOT.mkdir(parents=True, exist_ok=True)
    for name in names:
        lock = os.open(ROOT / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if _claimed(lock) and not lifecycle.lab_exists(name):
                yield name
                return
        finally:
            os.close(lock)
    raise LabError(
        f"lab {names[0]} is up; end it with: tortie lab down --name {names[0]}"
        + ("; or give the demo another --name" if chosen else f"; so are {MOST_DEMOS - 1} more of demos")
    )


def _claimed(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def play(
    name: str, say: Say, progress: lifecycle.ReportProgress, clear: Callable[[], None], *, keep: bool
) -> None:
    """Run the demo in a lab of this name. Raises LabError when anything is lost or does not come."""
    lifecycle.require_root()
    mode = Mode.IPIP if has_ipip() else Mode.VXLAN
    if mode is Mode.IPIP:
        say("This kernel has ipip: the pool is applied as the article has it, ipipMode Always.")
    else:
        say(
            "This kernel has no ipip: the article's pool is taken with vxlanMode Always instead of ipipMode Always."
        )
        say("(The unchanged pool runs in the User-Mode-Linux test of `make test`.)")
    started = time.monotonic()
    lab = lifecycle.up(name, NODES, mode, progress)
    clear()
    try:
        say(f"\nA lab of {NODES} nodes came up in {time.monotonic() - started:.1f} s.\n")
        for number in range(PODS):
            progress(f"adding pod {number + 1} of {PODS}")
            add_pod(lab.plan, f"pod{number + 1}", lab.plan.nodes[number % NODES])
        clear()
        say(show.topology(lab.plan, lab.mode, pods(lab.plan)))
        say("")
        lab_processes.wait_for("the blocks' routes", lambda: _routed(lab), SETTLE_SECONDS)
        say(show.sessions({node.name: lab_processes.agent_status(node) for node in lab.plan.nodes}))
        say(_routes(lab))
        _ping(lab, say)
        say("\nNow the pool is changed to no encapsulation, live.")
        lab = lifecycle.change_mode(lab, Mode.NONE)
        lab_processes.wait_for("the new routes", lambda: _direct(lab), SETTLE_SECONDS)
        say(_routes(lab))
        _ping(lab, say)
    finally:
        clear()
        if not keep:
            lifecycle.down(name)
    say(
        f"\nDone in {time.monotonic() - started:.1f} s; "
        + (f"the lab is still up: tortie lab status --name {name}" if keep else "the lab is removed.")
    )


def _routes(lab: Lab) -> str:
    return show.route_tables({node.name: ip_route(node) for node in lab.plan.nodes})


def _ping(lab: Lab, say: Say) -> None:
    say("\nEvery pod pings every other:\n")
    pings = lifecycle.ping(lab)
    say(show.matrix(pings.counts, pods(lab.plan)))
    if lost := sum(count.lost for count in pings.counts.values()):
        raise LabError(f"{lost} pings were lost")


def _remote(lab: Lab) -> list[list[str]]:
    """Each node's routes to other nodes' blocks, as lines of `ip route`."""
    return [
        [line for line in ip_route(node) if " via " in line and "default" not in line]
        for node in lab.plan.nodes
    ]


def _routed(lab: Lab) -> bool:
    return all(len(lines) >= NODES - 1 for lines in _remote(lab))


def _direct(lab: Lab) -> bool:
    return _routed(lab) and all(" dev eth0 " in line for lines in _remote(lab) for line in lines)
