"""A script of shell on a copy of the machine, as the suite runs its shards."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.suite.isolation import environment, isolated, prepare

CALL_SECONDS = 60.0


def inside(
    script: str, work: Path, callers: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """What a script of shell said that ran as a shard does; `callers` is the environment of who started the suite."""
    work.mkdir(exist_ok=True)
    return subprocess.run(
        isolated(["sh", "-c", script], work),
        env=environment(callers or os.environ),
        preexec_fn=prepare,
        capture_output=True,
        text=True,
        check=False,
        timeout=CALL_SECONDS,
    )
