"""The suite's own promises: every test is run once, nothing of this machine reaches it, nothing of it stays."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.scenes.suite.isolated_scripts import CALL_SECONDS, inside
from tests.suite.__main__ import ROOT, Done, counts, table
from tests.suite.isolation import SHARED, isolated
from tests.suite.shards import SHARDS, Kind, Shard, takes

TEST_FILES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py"))


def has(path: str, kind: Kind) -> bool:
    """Whether a file may hold tests of a kind."""
    text = (ROOT / path).read_text()
    if kind is Kind.PLAIN:
        return not re.search(r"^pytestmark = .*mark\.lab\b", text, re.MULTILINE)
    return f"mark.{kind.name.lower()}" in text


@pytest.mark.parametrize("path", TEST_FILES)
def test_each_test_is_one_shards(path: str) -> None:
    for kind in Kind:
        taking = [shard.name for shard in SHARDS if takes(shard, path, kind)]
        assert len(taking) == 1 if has(path, kind) else len(taking) <= 1, f"{kind}: {taking}"


def test_the_shards_cover_the_marks_that_pytest_knows() -> None:
    known = re.search(
        r"^markers = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL
    )
    assert known is not None
    assert re.findall(r'"(\w+):', known[1]) == ["ipip", "lab"]
    assert {kind for shard in SHARDS for kind in shard.kinds} == set(Kind)


def test_the_guest_kernels_shards_name_each_file_that_has_a_test_for_it() -> None:
    guests = [shard for shard in SHARDS if Kind.IPIP in shard.kinds]
    mine = "tests/suite/test_suite.py"
    marked = {path for path in TEST_FILES if path != mine and has(path, Kind.IPIP)}
    assert all(shard.files for shard in guests)
    named = [path for shard in guests for path in shard.files]
    assert sorted(named) == sorted(marked)


def test_nothing_of_the_callers_environment_reaches_a_shard(tmp_path: Path) -> None:
    odd = {
        "http_proxy": "http://127.0.0.1:9",
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "PYTHONPATH": "/nowhere",
        "LC_ALL": "tr_TR.UTF-8",
        "PATH": "/nowhere",
        "TORTIE_ETCD_ENDPOINTS": "http://127.0.0.1:9",
        "ETCD_ENDPOINTS": "http://127.0.0.1:9",
        "CNI_ARGS": "X=1",
        "NOTIFY_SOCKET": "/nowhere",
        "CI": "true",
    }
    before = os.umask(0o077)
    try:
        done = inside("env; umask", tmp_path / "work", {**odd})
    finally:
        os.umask(before)
    said = dict(line.partition("=")[::2] for line in done.stdout.splitlines() if "=" in line)
    assert said["CI"] == "true"
    assert "/nowhere" not in done.stdout
    assert said.keys() & (odd.keys() - {"CI", "PATH"}) == set()
    assert done.stdout.splitlines()[-1] == "0022"


def test_nothing_that_a_process_hands_down_reaches_a_shard(tmp_path: Path) -> None:
    script = """
    import signal, sys
    from pathlib import Path
    from tests.scenes.suite.isolated_scripts import inside
    print(inside("ulimit -n; ulimit -s; ulimit -f; grep SigIgn /proc/self/status", Path(sys.argv[1])).stdout)
    """
    words = (sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "work"))
    narrow = [
        "sh",
        "-c",
        "ulimit -S -n 128; ulimit -S -s 1024; ulimit -S -f 4096; trap '' HUP INT; exec \"$@\"",
        "sh",
        *words,
    ]
    done = subprocess.run(narrow, cwd=ROOT, capture_output=True, text=True, check=True)
    *limits, _, ignored = done.stdout.split()
    assert limits == ["1024", "8192", "unlimited"]
    assert int(ignored, 16) & 0x7FFFFFFF == 0  # 32 and 33 are the C library's own


def test_a_shard_has_a_network_a_name_and_files_of_its_own(tmp_path: Path) -> None:
    mine = SHARED / f"test-{os.getpid()}-{time.monotonic_ns()}"
    script = f"""
    ip -o link; hostname; ls /run/netns /tmp; ls /usr/sbin/policy-rc.d
    ip netns add tortie-test-own; echo written >/etc/tortie-test-own; echo {mine.name} >{mine}
    cat /etc/tortie-test-own; pwd
    """
    (tmp_path / "stranger").write_text("")
    try:
        done = inside(script, tmp_path / "work")
        assert mine.read_text() == f"{mine.name}\n", "one directory is every run's"
    finally:
        mine.unlink(missing_ok=True)
    lines = done.stdout.splitlines()
    assert len([line for line in lines if "LOOPBACK" in line]) == 1
    assert lines[1] == "machine"
    assert lines[-2:] == ["written", os.getcwd()]
    assert "policy-rc.d" not in done.stdout
    assert not Path("/etc/tortie-test-own").exists()
    assert not Path("/run/netns/tortie-test-own").exists()
    assert not any("stranger" in line for line in lines)


def test_what_a_shard_started_ends_with_it(tmp_path: Path) -> None:
    marker = f"{1000 + os.getpid()}.{time.monotonic_ns() % 10**6}"

    def alive() -> int:
        paths = (path / "cmdline" for path in Path("/proc").iterdir() if path.name.isdigit())
        return sum(f"sleep\0{marker}".encode() in _read(path) for path in paths)

    def until(count: int) -> None:
        last = time.monotonic() + CALL_SECONDS
        while alive() != count:
            assert time.monotonic() < last

    done = inside(f"setsid sleep {marker} </dev/null >/dev/null 2>&1 & exit 7", tmp_path / "ended")
    assert (done.returncode, alive()) == (7, 0)
    (tmp_path / "killed").mkdir()
    shard = subprocess.Popen(isolated(["sh", "-c", f"setsid sleep {marker} & wait"], tmp_path / "killed"))
    try:
        until(1)
    finally:
        shard.kill()
        shard.wait()
    until(0)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_shard_that_ran_nothing_skipped_or_died_is_not_good() -> None:
    shard = Shard("x", "", (Kind.PLAIN,), ("tests",))
    said = {
        "12 passed in 3.21s": (0, True),
        "12 passed, 3 deselected, 1 warning in 3.21s": (0, True),
        "12 passed in 3.22s": (1, False),
        "1 failed, 11 passed in 3.21s": (1, False),
        "11 passed, 1 skipped in 3.21s": (0, False),
        "11 passed, 2 errors in 3.21s": (0, False),
        "no tests ran in 0.01s": (0, False),
        "the guest kernel panicked; the end of its console:\nKernel panic": (125, False),
        "": (0, False),
    }
    for text, (status, good) in said.items():
        done = Done(shard, status, 62.0, 31.0, counts(text))
        assert done.is_good is good, text
        assert ("FAILED" in table([done], 62.0)) is not good


def test_a_wrong_name_is_told_with_the_right_ones() -> None:
    words = [sys.executable, "-m", "tests.suite", "--only", "nothing"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert all(shard.name in done.stderr for shard in SHARDS)
