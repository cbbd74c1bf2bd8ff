"""The parts of the suite, each a process of its own; together they are every test, each once.

Promises: nothing is skipped. A test marked `ipip` runs on this kernel where it has ipip, else in the guest kernel.
Does not know: what is tested, how shards share a machine.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

GUEST_SECONDS = 900
GUEST_TEST_SECONDS = 600
"""A test in the guest kernel may take longer than pyproject.toml grants: its system calls are slow."""
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations", "5"]
GUEST = [sys.executable, "-m", "tests.uml.guest", "--seconds", str(GUEST_SECONDS), "--"]
IN_GUEST = [*GUEST, *PYTEST, "-o", f"timeout={GUEST_TEST_SECONDS}", "-m", "ipip"]
INTEROP, KILLS, SWITCHES = "tests/interop", "tests/cni/test_kills.py", "tests/lab/test_switches.py"


@dataclass(frozen=True, slots=True)
class Shard:
    """A part of the suite."""

    name: str
    """What `--only` calls it."""
    meaning: str
    command: list[str]


SHARDS = (
    Shard("ipip-switches", "IPIP in User-Mode-Linux: ten live switches", [*IN_GUEST, SWITCHES]),
    Shard("ipip", "IPIP in User-Mode-Linux: all the rest", [*IN_GUEST, "--ignore", SWITCHES]),
    Shard(
        "labs",
        "whole labs, and the bench in short",
        [*PYTEST, "-m", "lab and not ipip", "tests/lab", "tests/bench"],
    ),
    Shard("machines", "machines with systemd", [*PYTEST, "-m", "lab", "tests/systemd"]),
    Shard(
        "cores",
        "cores, contracts, the kernel, runtimes",
        [*PYTEST, "-m", "not lab and not ipip", "--ignore", INTEROP, "--ignore", KILLS],
    ),
    Shard("interop", "BIRD, FRR and GoBGP; kill -9 at named points", [*PYTEST, "-n", "2", INTEROP, KILLS]),
)
"""In the order in which they start: who takes longest on one core goes first."""
