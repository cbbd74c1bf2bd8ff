"""Rounds of faults on one lab until the time is over, or something does not hold.

A round takes one to three faults at random, changes some pods while they last, ends them, and looks at what must hold.
The seed decides which faults, nodes and pods; how long things take is the machine's.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from agent.lab import lab_processes
from agent.lab.lifecycle import Lab
from agent.lab.pods import add_pod, pods, remove_pod
from tests.chaos import invariants
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.hostile import HOSTILE
from tests.chaos.world import STEADY, World
from tests.scenes.lab.labs import RouteMonitors
from tests.scenes.lab.pinging import pinging

FAULT_ROUNDS = 25
"""Of pings, while faults last: half a second at least."""
QUIET_ROUNDS = 50
"""Of pings, in which no route may change because nothing else does."""
QUIET_EVERY = 4
"""Rounds between such looks."""
MOST_FAULTS, MOST_CHANGES = 3, 4
WARM = 2
"""Rounds before the agents are first weighed."""
CALLS = 3


@dataclass
class Outcome:
    """What came of it."""

    seed: int
    rounds: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    """What was done in the last round."""

    def __str__(self) -> str:
        """For people."""
        lines = [f"seed {self.seed}: {self.rounds} rounds clean, {self.faults.total()} faults"]
        lines += [f"  {count:4} {name}" for name, count in sorted(self.faults.items())]
        if self.violations:
            lines += ["in the round after these:", *(f"  {text}" for text in self.said)]
            lines += ["does not hold:", *(f"  {text}" for text in self.violations)]
        return "\n".join(lines)


def run(lab: Lab, directory: Path, seconds: float, seed: int, report: Callable[[str], None]) -> Outcome:
    """Rounds for so long; ends at the first that leaves something wrong."""
    outcome = Outcome(seed)
    for number in range(len(lab.plan.nodes) + 1):
        add_pod(lab.plan, f"{STEADY}{number}", lab.plan.nodes[number % len(lab.plan.nodes)])
    with pinging(lab, directory) as pings, ThreadPoolExecutor(CALLS) as calls:
        world = World(lab, Random(seed), pings, calls)
        outcome.violations += invariants.violations(world)
        until, before = time.monotonic() + seconds, {}
        while not outcome.violations and time.monotonic() < until:
            world.said.clear()
            faults = some_faults(world.chance)
            outcome.violations += one_round(world, faults)
            if not outcome.violations and outcome.rounds % QUIET_EVERY == 0:
                outcome.violations += events_at_rest(world, directory)
            if outcome.violations:
                break
            outcome.rounds += 1
            outcome.faults.update(fault.name for fault in faults)
            report(f"round {outcome.rounds}: {'; '.join(world.said)}")
            if outcome.rounds == WARM:
                before = invariants.weights(world)
        outcome.said = list(world.said)
        if before and not outcome.violations:
            outcome.violations += invariants.growth(before, invariants.weights(world))
    if not outcome.violations:
        for pod in pods(lab.plan):
            remove_pod(lab.plan, pod)
        outcome.violations += invariants.remains(world)
    return outcome


def some_faults(chance: Random) -> list[Fault]:
    """One to three, each done to something else."""
    chosen: dict[str, Fault] = {}
    for fault in chance.sample((*FAULTS, *HOSTILE), chance.randint(1, MOST_FAULTS)):
        chosen.setdefault(fault.on, fault)
    return list(chosen.values())


def one_round(world: World, faults: list[Fault]) -> Iterator[str]:
    """The faults, pods that come and go meanwhile, and what does not hold afterwards."""
    lost = world.pings.lost()
    with ExitStack() as stack:
        for fault in faults:
            stack.enter_context(fault.run(world))
        for _ in range(world.chance.randint(0, MOST_CHANGES)):
            world.change_a_pod()
        world.wait(FAULT_ROUNDS)
    world.finish_calls()
    if not any(fault.fails for fault in faults):
        yield from (f"a call failed, though nothing was away: {why}" for why in world.failures)
    world.failures.clear()
    yield from invariants.violations(world)
    if not any(fault.loses for fault in faults):
        now = world.pings.lost()
        yield from (f"{pair} lost {now[pair] - lost[pair]} pings" for pair in now if now[pair] > lost[pair])


def events_at_rest(world: World, directory: Path) -> Iterator[str]:
    """Changes of routes while nothing happens."""
    directory = directory / "monitors"
    directory.mkdir(exist_ok=True)
    lab_processes.wait_for("calm", world.is_calm, invariants.CALM_SECONDS)
    monitors = RouteMonitors(world.lab, directory)
    try:
        world.wait(QUIET_ROUNDS)
        found = monitors.events()
    finally:
        monitors.close()
    for name, lines in found.items():
        # The kernel's own, of a device that is new, come when it likes.
        yield from (f"at rest, {name} saw: {line}" for line in lines if "proto kernel" not in line)
