"""How the agent's process begins when the machine has nothing left for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.namespace import fresh_namespace

PROGRAM = """
import os, resource, sys
from agent import daemon
used = max(int(name) for name in os.listdir("/proc/self/fd")) + 1
resource.setrlimit(resource.RLIMIT_NOFILE, (used + int(sys.argv.pop()), used + 100))
daemon.main()
"""


@pytest.mark.parametrize("more", (-1, 4))
def test_a_start_without_descriptors_ends_with_a_sentence(tmp_path: Path, more: int) -> None:
    """More than are open: for none, not even its lock; for its loop, but no netlink socket."""
    settings = {"TORTIE_PATHS_RUN": str(tmp_path / "run"), "TORTIE_PATHS_STATE": str(tmp_path / "state")}
    environment = {**os.environ, **settings, "TORTIE_ETCD_ENDPOINTS": "http://127.0.0.1:1"}
    with fresh_namespace():
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(more)],
            capture_output=True,
            text=True,
            env=environment,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("tortie-agent: ")
    assert "Too many open files" in done.stderr
    assert "Traceback" not in done.stderr
