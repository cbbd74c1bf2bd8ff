"""The guest kernel comes up on CPUs that it does not know; one that does not come up is found out at once."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import ROOT
from tests.uml import guest, xstate
from tests.uml.guest import DIED, LATE, Guest

SOON_SECONDS = 60.0
SUM = "import math; print(round(sum(math.sqrt(number) for number in range(100000)), 6))"
"""Floating point while the kernel switches between processes: what is saved must come back."""


IN_GUEST = """\
import sys
from pathlib import PosixPath
from tests.uml.guest import Guest, run
sys.exit(run({command}, {given}))
"""


def in_guest(given: Guest, *command: str, checkout: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a command in a guest of its own, whose reports are this result's `stderr`."""
    words = [sys.executable, "-c", IN_GUEST.format(command=list(command), given=given)]
    bound = 4 * guest.UP_SECONDS
    return subprocess.run(words, cwd=checkout, capture_output=True, text=True, check=False, timeout=bound)


@pytest.fixture
def larger_host(tmp_path: Path) -> str:
    """The library that makes this host one whose CPU has more state than the guest kernel knows of."""
    return str(xstate.compiled("larger_host.c", tmp_path))


def test_a_guest_comes_up_on_a_cpu_with_more_state_than_it_knows_of(tmp_path: Path, larger_host: str) -> None:
    ours = xstate.compiled("xstate.c", tmp_path)
    done = in_guest(Guest(libraries=f"{ours} {larger_host}"), sys.executable, "-c", SUM)
    here = subprocess.run([sys.executable, "-c", SUM], capture_output=True, text=True, check=True)
    assert (done.returncode, done.stdout) == (0, here.stdout), done.stderr


def test_a_guest_comes_up_whatever_the_checkouts_path_is(tmp_path: Path) -> None:
    checkout = tmp_path / "a checkout, 'mine'"
    for part in ("suite", "uml"):
        shutil.copytree(ROOT / "tests" / part, checkout / "tests" / part)
    shutil.copy2(ROOT / "tests" / "__init__.py", checkout / "tests")
    done = in_guest(Guest(), "pwd", checkout=checkout)
    assert (done.returncode, done.stdout) == (0, f"{checkout}\n"), done.stderr


def test_a_guest_that_panics_is_found_out_at_once_with_the_end_of_its_console(larger_host: str) -> None:
    started = time.monotonic()
    done = in_guest(Guest(seconds=1400, libraries=larger_host), "true")
    assert time.monotonic() - started < SOON_SECONDS
    assert done.returncode == DIED
    assert done.stderr.startswith("the guest kernel panicked; the end of its console:\n")
    assert "Kernel panic - not syncing" in done.stderr.splitlines()[1]


def endless_kernel(tmp_path: Path) -> Path:
    """Does its command's work, and hangs powering off, as the guest kernel does once in some hundred times."""
    kernel = tmp_path / "kernel"
    job = "for word; do case $word in JOB=*) job=${word#JOB=};; esac; done"
    kernel.write_text(f"#!/bin/sh\n{job}\n: >$job/up\necho 7 >$job/rc\nexec sleep 1000\n")
    kernel.chmod(0o755)
    return kernel


def test_a_guest_that_hangs_powering_off_has_ended(tmp_path: Path) -> None:
    done = in_guest(Guest(end_seconds=0.5, kernel=endless_kernel(tmp_path)), "true")
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")


def silent_kernel(tmp_path: Path) -> Path:
    """Boots, says so, and never gets to its first process."""
    kernel = tmp_path / "kernel"
    kernel.write_text("#!/bin/sh\necho booting\nexec sleep 1000\n")
    kernel.chmod(0o755)
    return kernel


def test_a_guest_that_stays_silent_is_not_waited_for(tmp_path: Path) -> None:
    done = in_guest(Guest(up_seconds=0.5, kernel=silent_kernel(tmp_path)), "true")
    assert done.returncode == DIED
    assert done.stderr == "the guest was not up within 0.5 s; the end of its console:\nbooting\n"


def test_a_command_that_does_not_end_is_ended_with_its_guest() -> None:
    done = in_guest(Guest(seconds=4), "sleep", "1000")
    assert done.returncode == LATE, done.stderr
    assert done.stderr.startswith("the guest did not end within 4 s; the end of its console:\n")


def test_a_commands_output_error_and_status_are_the_guests() -> None:
    done = in_guest(Guest(), "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")


def test_a_cpu_whose_state_fits_needs_no_library(tmp_path: Path) -> None:
    library = tmp_path / "xstate.so"
    here = xstate.host_bytes(xstate.compiled("xstate.c", tmp_path))
    assert here >= 512, "every x86-64 CPU has the legacy area"
    assert xstate.preload(tmp_path, guest_bytes=here) == {}
    assert xstate.preload(tmp_path, guest_bytes=here - 1) == {"LD_PRELOAD": str(library)}
