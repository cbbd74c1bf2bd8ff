"""The lab by its command line: the demo, bad input, and what a killed lab leaves."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.lab import demo, fabric, lab_processes, lifecycle
from agent.lab.lab_plan import ROOT, LabError, Mode
from tests.scenes.lab.labs import COMMAND, MakeLab, named, tortie

pytestmark = pytest.mark.lab


def machine() -> list[str]:
    """The machine's own interfaces, addresses, routes and rules."""
    views = (["link"], ["addr"], ["route", "show", "table", "all"], ["rule"])
    return [
        subprocess.run(["ip", *words], capture_output=True, text=True, check=True).stdout for words in views
    ]


@pytest.fixture
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    chosen = named("cli")
    lifecycle.down(chosen)
    yield chosen
    lifecycle.down(chosen)


def test_the_demo_ends_with_two_full_ping_matrices_and_leaves_the_machine_as_it_was(name: str) -> None:
    before = machine()
    done = tortie("lab", "demo", "--name", name)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("56 pings, 56 replies, 0 lost") == 2
    assert "ttl=62" in done.stdout
    for form in (" proto bird", " scope link", "blackhole 192.168."):
        assert form in done.stdout
    assert fabric.namespaces(f"tortie-{name}-") == []
    assert not (ROOT / name).exists()
    assert machine() == before


def test_a_demo_ends_no_lab_that_is_up(name: str) -> None:
    """Nor does one of the default name: another demo that runs has it, and a lab that was called so."""
    lifecycle.up(name, 1, Mode.NONE, lambda _: None)
    done = tortie("lab", "demo", "--name", name)
    assert done.returncode == 1
    assert done.stderr == (
        f"tortie: lab {name} is up; end it with: tortie lab down --name {name}; or give the demo another --name\n"
    )
    assert tortie("lab", "status", "--name", name).returncode == 0
    with demo.free_name(None) as first, demo.free_name(None) as second:
        assert first != second
    (ROOT / first).mkdir()
    try:
        (ROOT / first / "lab.json").write_text("{}")
        with demo.free_name(None) as third:
            assert third not in (first, "lab")
    finally:
        lifecycle.down(first)


def test_a_killed_lab_is_cleaned_by_the_next_down(name: str) -> None:
    starting = subprocess.Popen(
        [*COMMAND, "lab", "up", "--name", name, "--nodes", "2"], stderr=subprocess.DEVNULL
    )
    lab_processes.wait_for(
        "its second node", lambda: f"tortie-{name}-node2" in fabric.namespaces("tortie-"), 20
    )
    starting.kill()
    starting.wait()
    done = tortie("lab", "down", "--name", name)
    assert done.returncode == 0, done.stderr
    assert fabric.namespaces(f"tortie-{name}-") == []
    assert not (ROOT / name).exists()


def test_two_labs_stand_side_by_side_and_each_shows_itself(make_lab: MakeLab) -> None:
    make_lab("one", Mode.NONE, nodes=1, pods=2)
    make_lab("two", Mode.VXLAN, nodes=1, pods=2)
    for lab, mode in ((named("one"), "none"), (named("two"), "vxlan")):
        status = tortie("lab", "status", "--name", lab)
        assert f"lab {lab}, mode {mode}" in status.stdout
        assert "blackhole 192.168." in status.stdout
        inside = tortie("lab", "exec", "--name", lab, "node1", "--", *COMMAND, "node", "status")
        assert "Tortie agent is running" in inside.stdout, inside.stderr
        assert "No IPv4 peers found." in inside.stdout
    pools = tortie(
        "lab", "exec", "--name", named("two"), "node1", "--", *COMMAND, "get", "ippools", "-o", "wide"
    )
    assert "default-ipv4-ippool   192.168.0.0/16   true   Never" in pools.stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("lab", "up", "--name", "Nope"),
            "tortie: --name 'Nope': up to twelve lower-case letters and digits",
        ),
        (("lab", "up", "--nodes", "0"), "tortie: --nodes 0: a lab has 1 to 200 nodes"),
        (
            ("lab", "status", "--name", "absent"),
            "tortie: there is no lab absent; start one with: tortie lab up --name absent",
        ),
        (
            ("lab", "up", "--pool", "/nowhere.json"),
            "tortie: /nowhere.json: [Errno 2] No such file or directory",
        ),
        (("get", "pods"), "tortie: kind 'pods' is not known; did you mean pools?; known are ippools, nodes"),
        (
            ("--etcd-endpoints", "http://127.0.0.1:1", "get", "nodes"),
            "tortie: no answer from etcd at http://127.0.0.1:1",
        ),
        (("--etcd-endpoints", "http://h:x", "get", "nodes"), "tortie: etcd endpoint 'http://h:x'"),
        (("node", "status"), "tortie: no agent answers at /run/tortie/agent.sock"),
    ],
)
def test_a_wrong_command_is_one_sentence_and_exit_code_1(words: tuple[str, ...], sentence: str) -> None:
    done = tortie(*words)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(sentence), done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_pool_file_is_refused_before_anything_is_made(tmp_path: Path, name: str) -> None:
    file = tmp_path / "pool.json"
    document = json.loads(lifecycle.SEED_POOL.read_text())
    document["items"][0]["spec"]["blocksize"] = 26
    file.write_text(json.dumps(document))
    done = tortie("lab", "up", "--name", name, "--pool", str(file))
    assert done.returncode == 1
    expected = (
        f"{file}: line 1: IPPool default-ipv4-ippool: spec.blocksize: unknown field; did you mean blockSize?"
    )
    assert expected in done.stderr
    assert fabric.namespaces(f"tortie-{name}-") == []


def test_without_root_a_lab_says_so() -> None:
    words = [*COMMAND, "lab", "up"]
    done = subprocess.run(
        words, check=False, stderr=subprocess.PIPE, text=True, user=65534, group=65534, extra_groups=()
    )
    assert done.returncode == 1
    assert "run it as root" in done.stderr


def test_a_mode_this_kernel_cannot_do_is_refused_with_the_reason(name: str) -> None:
    if fabric.has_ipip():
        assert lifecycle.pool_document(None, Mode.IPIP)["items"][0]["spec"]["ipipMode"] == "Always"
        return
    with pytest.raises(LabError, match="this kernel has no ipip"):
        lifecycle.up(name, 1, Mode.IPIP, lambda _: None)
    assert fabric.namespaces(f"tortie-{name}-") == []


def test_an_overlapping_pool_is_refused_by_a_running_cluster(make_lab: MakeLab, tmp_path: Path) -> None:
    make_lab("over", Mode.NONE, nodes=1, pods=0)
    document = json.loads(lifecycle.SEED_POOL.read_text())
    document["items"][0]["metadata"]["name"] = "second"
    document["items"][0]["spec"]["cidr"] = "192.168.128.0/20"
    file = tmp_path / "second.json"
    file.write_text(json.dumps(document))
    done = tortie("lab", "exec", "--name", named("over"), "node1", "--", *COMMAND, "apply", "-f", str(file))
    assert done.returncode == 1
    expected = "IPPool second: spec.cidr: 192.168.128.0/20 overlaps pool default-ipv4-ippool (192.168.0.0/16)"
    assert expected in done.stderr
    listed = tortie(
        "lab", "exec", "--name", named("over"), "node1", "--", *COMMAND, "get", "ippools", "-o", "name"
    )
    assert listed.stdout.split() == ["ippool/default-ipv4-ippool"]
