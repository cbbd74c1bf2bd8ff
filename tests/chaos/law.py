"""`python -m tests.chaos.law [--rounds N] [--seed N]`: what breaks costs no ping or is named by a trouble, then mended.

Promises: a round breaks one thing, lets a second go by, and then looks at pings and at what the agents say; mended, all
pings pass and nobody says anything. The seed decides what breaks and where. Does not know: what an agent could see.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

from agent.lab import lab_processes, lifecycle
from agent.lab.lab_plan import LabError, Mode
from agent.lab.lifecycle import Lab
from agent.lab.pods import add_pod
from tests.chaos import cluster_breakages, host_breakages
from tests.chaos.breaking import Breakage
from tests.chaos.invariants import CALM_SECONDS
from tests.chaos.rounds import Outcome
from tests.chaos.world import STEADY, World
from tests.scenes.lab.labs import named
from tests.scenes.lab.pinging import pinging

BREAKAGES = [
    found
    for module in (host_breakages, cluster_breakages)
    for found in vars(module).values()
    if isinstance(found, Breakage)
]
SECOND = 1.0
"""In which what is broken is mended by the agent, or told."""
LOOK_ROUNDS = 25
"""Of pings, half a second: after that second none may be lost that nobody speaks of."""


def run(
    lab: Lab, directory: Path, breakages: list[Breakage], seed: int, report: Callable[[str], None]
) -> Outcome:
    """Break one after the other; ends at the first that is not told, or not mended."""
    outcome = Outcome(seed)
    for number in range(len(lab.plan.nodes) + 1):
        add_pod(lab.plan, f"{STEADY}{number}", lab.plan.nodes[number % len(lab.plan.nodes)])
    with pinging(lab, directory) as pings, ThreadPoolExecutor(1) as calls:
        world = World(lab, Random(seed), pings, calls)
        outcome.violations += mended(world)
        for breakage in breakages:
            if outcome.violations:
                break
            world.said.clear()
            outcome.violations += one_round(world, breakage)
            outcome.said = [breakage.name, *world.said]
            if not outcome.violations:
                outcome.rounds += 1
                outcome.faults[breakage.name] += 1
                report(f"round {outcome.rounds}: {breakage.name}: {'; '.join(world.said)}")
    return outcome


def one_round(world: World, breakage: Breakage) -> Iterator[str]:
    """Break it, look, mend it, look again."""
    with breakage.run(world):
        until = time.monotonic() + SECOND
        lab_processes.wait_for("a second", lambda: time.monotonic() > until, 2 * SECOND)
        before = world.pings.lost()
        world.wait(LOOK_ROUNDS)
        after = world.pings.lost()
        lost = [f"{pair} ({after[pair] - before[pair]})" for pair in after if after[pair] > before[pair]]
        said = troubles(world)
        if lost and not any(word in text.lower() for text in said for word in breakage.words):
            yield f"{breakage.name}: pings are lost and nobody names it: {', '.join(lost)}; told: {said}"
    yield from mended(world)


def troubles(world: World) -> list[str]:
    """What all agents say."""
    found = []
    for node in world.nodes:
        status = world.status(node)
        found += [f"{node.name}: {text}" for text in (status["troubles"] if status is not None else ())]
    return found


def mended(world: World) -> Iterator[str]:
    """Nobody says anything, and all pings pass."""
    try:
        lab_processes.wait_for("calm", world.is_calm, CALM_SECONDS)
        lab_processes.wait_for("pings that pass", lambda: passes(world), CALM_SECONDS)
    except LabError as error:
        yield f"{error}: {world.why_not_calm()}"


def passes(world: World) -> bool:
    """Whether every ping of half a second has its answer."""
    before = world.pings.lost()
    world.wait(LOOK_ROUNDS)
    return world.pings.lost() == before


def chosen(seed: int, rounds: int) -> list[Breakage]:
    """So many, each kind as often as any other, in an order of the seed's."""
    chance = Random(seed)
    found: list[Breakage] = []
    while len(found) < rounds:
        found += chance.sample(BREAKAGES, len(BREAKAGES))
    return found[:rounds]


def main() -> None:
    """Exit code 1 if something was neither mended nor told."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.law", description=__doc__)
    parser.add_argument("--rounds", type=int, default=len(BREAKAGES))
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="replays what was chosen")
    parser.add_argument("--only", default="", help="breakages whose names have this in them")
    parser.add_argument("--keep-on", action="store_true", help="a new lab after each violation")
    given = parser.parse_args()
    print(f"seed {given.seed}, {len(BREAKAGES)} breakages", flush=True)
    todo = [one for one in chosen(given.seed, given.rounds) if given.only in one.name]
    failed, clean = Counter[str](), 0
    while todo:
        outcome = _on_a_lab(todo, given.seed)
        clean += outcome.rounds
        if not outcome.violations:
            break
        print(outcome, flush=True)
        failed[todo[outcome.rounds].name if outcome.rounds < len(todo) else "?"] += 1
        todo = todo[outcome.rounds + 1 :] if given.keep_on else []
    print(f"{clean} rounds clean; not: {dict(failed)}")
    sys.exit(1 if failed else 0)


def _on_a_lab(todo: list[Breakage], seed: int) -> Outcome:
    name = named("law")
    try:
        lab = lifecycle.up(name, 3, Mode.VXLAN, lambda text: None)
        with tempfile.TemporaryDirectory() as directory:
            outcome = run(lab, Path(directory), todo, seed, lambda text: print(text, flush=True))
        if outcome.violations:
            lifecycle.copy_logs(lab.plan)
        return outcome
    finally:
        lifecycle.down(name)


if __name__ == "__main__":
    main()
