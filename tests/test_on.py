"""A run on another Debian: what reaches it, what it cannot change, what becomes of it. This machine is the tree."""

from __future__ import annotations

import fcntl
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.on.__main__ import CALLERS, FOR_A_ROOT_OF_ITS_OWN, environment, environment_name, run
from tests.suite import isolation

HERE = Path("/")
MAKEFILE = """\
.PHONY: ready
ready:
\t@cat "$$PIP_CERT" >.venv/certificates; echo once >>.venv/made; touch .venv/ready
"""


@dataclass(frozen=True, slots=True)
class Place:
    """A checkout, and what is kept of it."""

    checkout: Path
    venv: Path
    cache: Path
    callers: dict[str, str]

    def run(self, script: str) -> int:
        return run(HERE, self.venv, self.cache, self.checkout, self.callers, ["sh", "-c", script])


@pytest.fixture
def place(tmp_path: Path) -> Place:
    checkout, cache, certificates = tmp_path / "checkout", tmp_path / "cache", tmp_path / "own.pem"
    for directory in (checkout, cache, checkout / "dist", checkout / "tests"):
        directory.mkdir()
    (checkout / "Makefile").write_text(MAKEFILE)
    (checkout / "tests/one.py").write_text("1\n")
    (checkout / "dist/old.whl").write_text("")
    certificates.write_text("certificates\n")
    return Place(checkout, cache / "venv", cache, {"PIP_CERT": str(certificates), "LD_PRELOAD": "/none"})


def test_a_callers_files_are_found_elsewhere_and_its_other_variables_do_not_arrive(tmp_path: Path) -> None:
    file, folder = tmp_path / "own.pem", tmp_path / "wheels"
    file.touch()
    folder.mkdir()
    callers = {
        "PIP_CERT": str(file),
        "PIP_FIND_LINKS": str(folder),
        "SSL_CERT_FILE": "/nowhere/at/all",
        "PIP_INDEX_URL": "https://index.example/simple",
        "https_proxy": "http://127.0.0.1:9",
        "CI": "1",
        "LANG": "de_DE",
        "PYTHONPATH": "/tmp",
    }
    variables, files = environment(callers)
    assert files == {"PIP_CERT": file, "PIP_FIND_LINKS": folder}
    assert variables == {
        **isolation.OWN,
        **FOR_A_ROOT_OF_ITS_OWN,
        "PIP_CERT": f"{CALLERS}/PIP_CERT",
        "PIP_FIND_LINKS": f"{CALLERS}/PIP_FIND_LINKS",
        "SSL_CERT_FILE": "/nowhere/at/all",
        "PIP_INDEX_URL": "https://index.example/simple",
        "https_proxy": "http://127.0.0.1:9",
        "CI": "1",
    }


def test_an_environment_is_kept_for_a_system_and_a_lock(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "requirements.lock"):
        (tmp_path / name).write_text("one")
    first = environment_name("trixie", Path("trixie-1"), tmp_path)
    assert environment_name("trixie", Path("trixie-1"), tmp_path) == first
    assert environment_name("trixie", Path("trixie-2"), tmp_path) != first
    (tmp_path / "requirements.lock").write_text("two")
    assert environment_name("trixie", Path("trixie-1"), tmp_path) != first


def test_the_commands_status_is_that_of_the_run(place: Place) -> None:
    assert place.run("exit 0") == 0
    assert place.run("exit 3") == 3
    assert place.run("kill -9 $$") == 128 + 9


def test_a_checkout_is_made_ready_with_the_callers_files_and_then_they_are_gone(place: Place) -> None:
    asked = 'test -z "$PIP_CERT" && test ! -s /run/callers/PIP_CERT'
    assert place.run(f"test -e tests/one.py && test ! -e dist && {asked}") == 0
    assert (place.venv / "certificates").read_text() == "certificates\n"
    assert not (place.checkout / ".venv").exists()


def test_a_run_changes_neither_the_tree_nor_the_checkout(place: Place) -> None:
    name = f"tortie-{place.cache.parent.name}"
    assert place.run(f"touch /{name} /etc/{name} /usr/{name}") != 0
    assert place.run(f"echo 2 >tests/one.py; touch here /tmp/{name} /run/{name}") == 0
    assert (place.checkout / "tests/one.py").read_text() == "1\n"
    assert not (place.checkout / "here").exists()
    left = [directory / name for directory in map(Path, ("/", "/etc", "/usr", "/tmp", "/run"))]
    assert [path for path in left if path.exists()] == []


def test_a_run_has_a_loopback_alone_that_is_up(place: Place) -> None:
    assert place.run("test $(ls /sys/class/net) = lo && ping -c1 -w5 127.0.0.1 >/dev/null") == 0


def test_what_a_run_started_ends_with_it(place: Place) -> None:
    held = place.cache / "held"
    assert place.run(f"setsid flock {held} sleep 1000 & while flock -n {held} true; do :; done") == 0
    with held.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
