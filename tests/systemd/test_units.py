"""The unit files: systemd finds nothing to complain of, and each hardening they do without has its reason beside it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.systemd.units import SERVICES, UNITS, exposed, reasons

MOST_EXPOSURE = 4.0
UNKNOWN_KEY = re.compile(r"(?i)unknown|failed to parse|ignoring")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)


@pytest.fixture
def placed(tmp_path: Path) -> Path:
    """The units with programs that exist."""
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for name in SERVICES:
        text = re.sub(r"/opt/tortie/current/bin/\S+", str(program), (UNITS / name).read_text())
        (tmp_path / name).write_text(text)
    return tmp_path


def test_systemd_finds_nothing_wrong_with_the_units(placed: Path) -> None:
    done = run("systemd-analyze", "verify", "--man=no", *(str(placed / name) for name in SERVICES))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_systemd_would_name_a_key_that_it_does_not_know(placed: Path) -> None:
    unit = placed / SERVICES[0]
    unit.write_text(unit.read_text().replace("[Service]", "[Service]\nWatchDogs=3"))
    assert "WatchDogs" in run("systemd-analyze", "verify", "--man=no", str(unit)).stderr


@pytest.mark.parametrize("name", SERVICES)
def test_the_security_score_is_good(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    done = run("systemd-analyze", "security", "--offline=true", "--no-pager", str(UNITS / name))
    said = re.search(r"Overall exposure level for (\S+): ([0-9.]+)", done.stdout)
    assert said is not None, done.stderr
    with capsys.disabled():
        print(f"\n{said[1]}: exposure {said[2]} (at most {MOST_EXPOSURE})")
    assert float(said[2]) <= MOST_EXPOSURE


def test_each_exception_of_the_agents_unit_has_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    unit = UNITS / SERVICES[0]
    done = run("systemd-analyze", "security", "--offline=true", "--json=short", "--no-pager", str(unit))
    with capsys.disabled():
        print("".join(f"\n  {name} {why}" for name, why in sorted(reasons().items())))
    assert set(reasons()) == exposed(done.stdout)


def test_the_other_files_name_every_interface_of_ours() -> None:
    ours = ("cali*", "tunl0", "vxlan.calico", "vxlan-v6.calico")
    for name in ("network/10-tortie.link", "network/10-tortie.network", "NetworkManager/tortie.conf"):
        text = (UNITS / name).read_text()
        assert [device for device in ours if device not in text] == [], name


def test_modules_and_switches_are_in_the_form_their_programs_read(tmp_path: Path) -> None:
    for line in (UNITS / "modules-load.d/tortie.conf").read_text().splitlines():
        assert re.fullmatch(r"#.*|[a-z0-9_]+", line)
    done = run("systemd-tmpfiles", "--create", f"--root={tmp_path}", str(UNITS / "tmpfiles.d/tortie.conf"))
    assert (done.returncode, UNKNOWN_KEY.findall(done.stderr)) == (0, [])
    assert (tmp_path / "etc/tortie/secrets").stat().st_mode & 0o777 == 0o700


def test_the_agents_start_may_take_minutes_on_a_machine_that_is_emulated() -> None:
    """On virtual machines without KVM reading the program took 53 s of a limit of 60, and one start of three failed."""
    (limit,) = re.findall(r"^TimeoutStartSec=(\d+)$", (UNITS / SERVICES[0]).read_text(), re.MULTILINE)
    assert int(limit) >= 5 * 53
