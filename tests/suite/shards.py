"""The parts of the suite, each a process of its own; together they are every test, each once.

Promises: nothing is skipped. A test marked `ipip` runs on this kernel where it has ipip, else in the guest kernel.
Does not know: what is tested, how shards share a machine.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import Enum

from tests import ROOT

GUEST_SECONDS = 900
GUEST_TEST_SECONDS = 600
"""A test in the guest kernel may take longer than pyproject.toml grants: its system calls are slow."""
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations", "12")
GUEST = (sys.executable, "-m", "tests.uml.guest", "--seconds", str(GUEST_SECONDS), "--")


class Kind(Enum):
    """Of tests, by their marks: pytest's `-m`."""

    IPIP = "ipip"
    LAB = "lab and not ipip"
    PLAIN = "not lab and not ipip"


@dataclass(frozen=True, slots=True)
class Shard:
    """A part of the suite."""

    name: str
    """What `--only` calls it."""
    meaning: str
    kinds: tuple[Kind, ...]
    places: tuple[str, ...]
    """Files or folders."""
    without: tuple[str, ...] = ()
    """Places that are another shard's."""
    workers: int = 1
    is_isolated: bool = True
    """Whether it runs on a machine's copy. What makes such copies itself does not: overlays lie two deep at most
    (FILESYSTEM_MAX_STACK_DEPTH), and the machine's own root may be the first."""
    spread: str = "loadfile"
    """Over the workers (pytest-xdist's `--dist`): by files, since those share a lab or an etcd, or test by test."""

    @property
    def files(self) -> list[str]:
        """Where tests of its kinds are, file by file: a guest's Python is slow to read all others."""
        marks = tuple(f"mark.{kind.name.lower()}" for kind in self.kinds)
        found = (path for place in self.places for path in (ROOT / place, *(ROOT / place).rglob("*.py")))
        named = sorted(str(path.relative_to(ROOT)) for path in found if path.match("test_*.py"))
        mine = [path for path in named if any(takes(self, path, kind) for kind in self.kinds)]
        return [path for path in mine if any(mark in (ROOT / path).read_text() for mark in marks)]

    @property
    def command(self) -> list[str]:
        """Pytest, in the guest kernel if need be."""
        marks = " or ".join(f"({kind.value})" for kind in self.kinds)
        words = [*PYTEST, "-m", marks]
        if Kind.IPIP in self.kinds:
            words += self.files
        else:
            words += [*self.places, *(word for place in self.without for word in ("--ignore", place))]
        if self.workers > 1:
            words += ["-n", str(self.workers), "--dist", self.spread]
        return [*GUEST, *words, "-o", f"timeout={GUEST_TEST_SECONDS}"] if Kind.IPIP in self.kinds else words


EVERY = (Kind.LAB, Kind.PLAIN)
ADDRESSES = ("tests/ipam", "tests/agent/cni")
INTEROP, KILLS, SWITCHES = (
    "tests/interop",
    "tests/agent/cni/test_kills.py",
    "tests/lab/encapsulation/test_switches.py",
)
ISOLATION = "tests/suite"
SHARDS = (
    Shard(
        "labs",
        "whole labs, and the bench in short",
        (Kind.LAB,),
        ("tests/bench", "tests/chaos", "tests/lab"),
        workers=3,
    ),
    Shard(
        "cores",
        "all other cores, contracts and the kernel",
        (Kind.PLAIN,),
        ("tests",),
        without=(INTEROP, ISOLATION, *ADDRESSES),
    ),
    Shard("ipip-switches", "IPIP in User-Mode-Linux: ten live switches", (Kind.IPIP,), (SWITCHES,)),
    Shard("machines", "machines with systemd", (Kind.LAB,), ("tests/systemd",)),
    Shard(
        "ipip",
        "IPIP in User-Mode-Linux: all the rest",
        (Kind.IPIP,),
        ("tests/contract", "tests/agent/dataplane", "tests/agent/netlink", "tests/lab"),
        without=(SWITCHES,),
    ),
    Shard("addresses", "IPAM, and CNI with its runtimes", (Kind.PLAIN,), ADDRESSES, (KILLS,)),
    Shard(
        "interop",
        "BIRD, FRR and GoBGP; kill -9 at named points",
        EVERY,
        (INTEROP, KILLS),
        workers=2,
        spread="load",
    ),
    Shard("isolation", "what keeps shards apart", EVERY, (ISOLATION,), is_isolated=False),
)
"""In the order in which they start: who takes longest on one core goes first."""


def takes(shard: Shard, path: str, kind: Kind) -> bool:
    """Whether tests of a kind in a file are this shard's."""

    def below(places: tuple[str, ...]) -> bool:
        return any(path == place or path.startswith(f"{place}/") for place in places)

    return kind in shard.kinds and below(shard.places) and not below(shard.without)
