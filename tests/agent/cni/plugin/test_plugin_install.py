"""Plugins by rename, the configuration last, nothing of others touched."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from agent.cni.plugin.plugin_install import CONFLIST, InstallFailed, PluginPaths, install, uninstall


@pytest.fixture
def paths(tmp_path: Path) -> PluginPaths:
    return PluginPaths(
        tmp_path / "bin", tmp_path / "net.d", tmp_path / "run" / "cni.sock", tmp_path / "state"
    )


def done(paths: PluginPaths, shim: str = "python", *, replace: bool = False) -> list[str]:
    return list(install(paths, shim, "pods", replace=replace))


def run(plugin: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [plugin], input=b"{}", env=environment, capture_output=True, timeout=30, check=False
    )


@pytest.mark.parametrize("shim", ["python", "c", "auto"])
def test_an_installed_plugin_knows_where_this_agent_listens_and_writes(paths: PluginPaths, shim: str) -> None:
    done(paths, shim)
    for name in ("tortie", "tortie-ipam"):
        plugin = paths.plugins / name
        assert run(plugin, CNI_COMMAND="VERSION").returncode == 0
        ended = run(plugin, CNI_COMMAND="DEL", CNI_CONTAINERID="c", CNI_IFNAME="eth0")
        assert ended.returncode == 0
    assert len(list((paths.state / "releases").glob("*-c-eth0.json"))) == 2


def test_the_configuration_is_a_list_with_the_plugin_first_and_portmap_where_it_is(
    paths: PluginPaths,
) -> None:
    done(paths)
    path = paths.configuration / CONFLIST
    assert [plugin["type"] for plugin in json.loads(path.read_text())["plugins"]] == ["tortie"]
    (paths.plugins / "portmap").write_text("")
    done(paths, replace=True)
    assert [plugin["type"] for plugin in json.loads(path.read_text())["plugins"]] == ["tortie", "portmap"]


def test_asked_again_it_writes_nothing(paths: PluginPaths) -> None:
    done(paths)
    before = {path: path.stat().st_ino for path in (paths.plugins / "tortie", paths.configuration / CONFLIST)}
    assert ["stands already" in line for line in done(paths)] == [True] * 3
    assert {path: path.stat().st_ino for path in before} == before


def test_a_configuration_that_somebody_changed_stays_unless_it_is_to_be_replaced(paths: PluginPaths) -> None:
    done(paths)
    path = paths.configuration / CONFLIST
    path.write_text("{}")
    assert "left as it is" in done(paths)[-1]
    assert path.read_text() == "{}"
    done(paths, replace=True)
    assert json.loads(path.read_text())["name"] == "pods"


def test_a_plugin_that_runs_is_replaced_without_a_moment_of_none(paths: PluginPaths) -> None:
    done(paths)
    plugin = paths.plugins / "tortie"
    plugin.write_bytes(plugin.read_bytes() + b"# older\n")
    with plugin.open("rb") as old:
        done(paths)
        assert old.read().endswith(b"# older\n")
    assert not plugin.read_bytes().endswith(b"# older\n")
    assert sorted(path.name for path in paths.plugins.iterdir()) == ["tortie", "tortie-ipam"]


def test_somebody_elses_plugin_is_never_overwritten_nor_removed(paths: PluginPaths) -> None:
    paths.plugins.mkdir()
    (paths.plugins / "tortie").write_text("another program")
    with pytest.raises(InstallFailed, match="is somebody else's plugin; move it"):
        done(paths)
    assert list(uninstall(paths)) == []
    assert (paths.plugins / "tortie").read_text() == "another program"
    assert not (paths.configuration / CONFLIST).exists()


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only compiler there is: what a test writes there."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path / "cc"


@pytest.mark.parametrize("place", ["bin/tortie", f"net.d/{CONFLIST}"])
def test_what_is_no_file_in_a_place_of_ours_is_said_and_not_waited_for(
    paths: PluginPaths, tmp_path: Path, place: str
) -> None:
    (tmp_path / place).parent.mkdir()
    os.mkfifo(tmp_path / place)
    with pytest.raises(InstallFailed, match=f"{place}: a FIFO where a file should be"):
        done(paths)


def test_a_plugin_that_does_not_run_is_not_configured(paths: PluginPaths, compiler: Path) -> None:
    compiler.write_text('#!/bin/sh\nshift $(($# - 2))\necho TORTIE_CNI_SOCKET > "$1"\n')
    compiler.chmod(0o755)
    with pytest.raises(InstallFailed, match="does not run here"):
        done(paths, "c")
    assert not (paths.configuration / CONFLIST).exists()


def test_a_compiler_that_fails_is_told_or_done_without(paths: PluginPaths, compiler: Path) -> None:
    compiler.write_text("#!/bin/sh\necho no header files >&2\nexit 1\n")
    compiler.chmod(0o755)
    with pytest.raises(InstallFailed, match="cc: no header files; use --shim python"):
        done(paths, "c")
    assert "(Python, for" in done(paths, "auto")[0]


def test_without_a_compiler_there_is_the_one_in_python(paths: PluginPaths, compiler: Path) -> None:
    assert "(Python;" in done(paths, "auto")[0]
    with pytest.raises(InstallFailed, match="no compiler"):
        done(paths, "c")


def test_what_was_installed_is_removed_configuration_first(paths: PluginPaths) -> None:
    done(paths)
    lines = list(uninstall(paths))
    assert [line.rpartition("/")[2] for line in lines] == [
        f"{CONFLIST}: removed",
        "tortie: removed",
        "tortie-ipam: removed",
    ]
    assert list(uninstall(paths)) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InstallFailed, match="file"):
        list(install(PluginPaths(tmp_path / "file" / "bin", tmp_path / "net.d"), "python", "pods"))
