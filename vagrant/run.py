"""`vagrant/smoke`: the machines up, the steps one by one, the report.

Promises: the first step that fails ends the run; the report is printed all the same, and the exit status is 1.
Does not know: what the steps do.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from vagrant.machines import Unmet, machines, vagrant
from vagrant.package import newer
from vagrant.report import Report, Step
from vagrant.scene import NODES, ROUTER, Scene
from vagrant.steps import StepFunction, steps

UP_SECONDS = 3600.0
EXAMPLES = """\
examples:
  sudo vagrant/without-kvm vagrant/smoke              without KVM; the report as a table
  vagrant/smoke --json report.json                    with KVM or VirtualBox; as JSON as well
  vagrant/smoke --from drain                          the steps from the first whose name begins so

Begins with `vagrant up`, unless --from is given. The last step removes the package from a node: before the next run
comes `vagrant destroy -f`.
"""


def place() -> str:
    """This machine in a few words."""
    emulated = "QEMU without KVM" if os.environ.get("TORTIE_TCG") == "1" else "virtual machines"
    return f"{emulated}, {os.cpu_count()} cores, load {os.getloadavg()[1]:.0f}, {platform.machine()}"


def up() -> str:
    """`vagrant up`, as the first step."""
    vagrant("up", seconds=UP_SECONDS, shown=True)
    return f"{len(NODES)} nodes and a router, provisioned"


def timed(name: str, run: Callable[[], str]) -> Step:
    """Run a step; what came of it is printed at once, too."""
    print(f"{name} …", file=sys.stderr, flush=True)
    began = time.monotonic()
    try:
        step = Step(name, 0.0, run())
    except Unmet as unmet:
        step = Step(name, 0.0, str(unmet), failed=True)
    step = Step(step.name, time.monotonic() - began, step.said, step.failed)
    print(
        f"  {'FAILED: ' if step.failed else ''}{step.said} ({step.seconds:.0f} s)",
        file=sys.stderr,
        flush=True,
    )
    return step


def chosen(all_steps: list[tuple[str, StepFunction]], first: str) -> list[tuple[str, StepFunction]]:
    """The steps from the first whose name begins with `first`."""
    for number, (name, _) in enumerate(all_steps):
        if name.startswith(first):
            return all_steps[number:]
    raise SystemExit(f"--from {first}: the steps are {', '.join(name for name, _ in all_steps)}")


def smoke(first: str) -> Report:
    """All of it, or what begins with the step `first` on machines that are up."""
    done = [] if first else [timed("vagrant up", up)]
    with tempfile.TemporaryDirectory(prefix="tortie-smoke-") as folder:
        if not any(step.failed for step in done):
            try:
                package = newer(Path(folder))
                with machines([ROUTER, *NODES]) as there:
                    done += played(Scene(there), chosen(steps(package), first))
            except Unmet as unmet:
                done.append(Step("beginning", 0.0, str(unmet), failed=True))
    return Report(place(), tuple(done))


def played(scene: Scene, chosen: list[tuple[str, StepFunction]]) -> Iterator[Step]:
    """The steps in order, up to the first that fails."""
    scene.find_pods()
    for name, step in chosen:
        done = timed(name, partial(step, scene))
        yield done
        if done.failed:
            return


def main() -> None:
    """The entry point."""
    flags = argparse.ArgumentParser(
        prog="vagrant/smoke",
        description="Run on virtual machines what `tortie lab` runs in namespaces, and report.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("--json", type=Path, metavar="FILE", help="the report for programs")
    flags.add_argument(
        "--from", dest="first", default="", metavar="STEP", help="leave out the steps before it"
    )
    arguments = flags.parse_args()
    report = smoke(arguments.first)
    print(report.table())
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report.document(), indent=2) + "\n")
    sys.exit(1 if report.failed else 0)


if __name__ == "__main__":
    main()
