"""The main job as a story: three nodes, eight pods, pings, and the pool switched live.

Promises: prints what really happened; a lost ping ends it with an error. Does not know: how a lab works.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from agent.lab import life, processes, show
from agent.lab.fabric import has_ipip
from agent.lab.life import Lab
from agent.lab.plan import LabError, Mode
from agent.lab.pods import add, pods
from agent.lab.routes import table, tables

NODES = 3
PODS = 8
SETTLE_SECONDS = 20.0

Say = Callable[[str], None]


def tell(name: str, say: Say, progress: life.Progress, clear: Callable[[], None], *, keep: bool) -> None:
    """Run it. Raises LabError when anything is lost or does not come."""
    life.require_root()
    mode = Mode.IPIP if has_ipip() else Mode.VXLAN
    if mode is Mode.IPIP:
        say("This kernel has ipip: the pool is applied as the article has it, ipipMode Always.")
    else:
        say(
            "This kernel has no ipip: the article's pool is taken with vxlanMode Always instead of ipipMode Always."
        )
        say("(The unchanged pool runs in the User-Mode-Linux test of `make test`.)")
    started = time.monotonic()
    lab = life.up(name, NODES, mode, progress)
    clear()
    try:
        say(f"\nA lab of {NODES} nodes came up in {time.monotonic() - started:.1f} s.\n")
        for number in range(PODS):
            progress(f"adding pod {number + 1} of {PODS}")
            add(lab.plan, f"pod{number + 1}", lab.plan.nodes[number % NODES])
        clear()
        _show(lab, say)
        say("\nNow the pool is switched to no encapsulation, live.")
        lab = life.switch(lab, Mode.NONE)
        processes.wait_for("the new routes", lambda: _direct(lab), SETTLE_SECONDS)
        say(tables(lab.plan))
        _ping(lab, say)
    finally:
        clear()
        if not keep:
            life.down(name)
    say(
        f"\nDone in {time.monotonic() - started:.1f} s{'; the lab is still up' if keep else '; the lab is removed'}."
    )


def _show(lab: Lab, say: Say) -> None:
    say(show.topology(lab.plan, lab.mode, pods(lab.plan)))
    say("")
    processes.wait_for("the blocks' routes", lambda: _routed(lab), SETTLE_SECONDS)
    say(show.sessions({node.name: processes.agent_status(node) for node in lab.plan.nodes}))
    say(tables(lab.plan))
    _ping(lab, say)


def _ping(lab: Lab, say: Say) -> None:
    say("\nEvery pod pings every other:\n")
    pings = life.ping(lab)
    say(show.matrix(pings.counts, pods(lab.plan)))
    if lost := sum(count.lost for count in pings.counts.values()):
        raise LabError(f"{lost} pings were lost")


def _remote(lab: Lab) -> list[list[str]]:
    """Of each node the routes to other nodes' blocks."""
    return [
        [line for line in table(node) if " via " in line and "default" not in line] for node in lab.plan.nodes
    ]


def _routed(lab: Lab) -> bool:
    return all(len(lines) >= NODES - 1 for lines in _remote(lab))


def _direct(lab: Lab) -> bool:
    return _routed(lab) and all(" dev eth0 " in line for lines in _remote(lab) for line in lines)
