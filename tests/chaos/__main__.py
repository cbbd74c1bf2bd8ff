"""`python -m tests.chaos [--seconds N] [--seed N] [--mode none|vxlan|ipip]`: random faults until something is wrong."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

from agent.lab import lifecycle
from agent.lab.lab_plan import Mode
from tests.chaos import rounds
from tests.scenes.lab.labs import named


def main() -> None:
    """Exit code 1 if something did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="replays what was chosen")
    parser.add_argument("--mode", type=Mode, default=Mode.VXLAN, help="none, vxlan or ipip")
    given = parser.parse_args()
    name = named("chaos")
    print(f"seed {given.seed}, mode {given.mode.value}", flush=True)
    try:
        lab = lifecycle.up(name, 3, given.mode, lambda text: None)
        with tempfile.TemporaryDirectory() as directory:
            outcome = rounds.run(
                lab, Path(directory), given.seconds, given.seed, lambda text: print(text, flush=True)
            )
        if outcome.violations:
            lifecycle.copy_logs(lab.plan)
    finally:
        lifecycle.down(name)
    print(outcome)
    sys.exit(1 if outcome.violations else 0)


if __name__ == "__main__":
    main()
