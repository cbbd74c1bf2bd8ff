"""What stands where a file should be is said at once: nobody waits for it, and nobody reads it without end."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.configuration.config import ConfigError, EtcdSettings
from agent.configuration.loading import MOST_FILE_BYTES, loaded
from agent.datastore.etcd_settings import MOST_TLS_BYTES, check_files
from agent.durable_files import put_file
from agent.foreign_files import Unfit, read_file
from agent.peering.drain import DrainFile
from agent.peering.passwords import PasswordFiles
from agent.preflight.proc_scan import file_text
from tests.fixtures.odd_files import alarm, device, huge, listening_socket

__all__ = ["alarm"]

pytestmark = pytest.mark.usefixtures("alarm")

MOST = 100


ODD: dict[str, tuple[Callable[[Path], None], str]] = {
    "a FIFO": (os.mkfifo, "a FIFO where a file should be"),
    "a socket": (listening_socket, "a socket where a file should be"),
    "a device": (device, "a device where a file should be"),
    "a directory": (Path.mkdir, "a directory where a file should be"),
    "a link to a device": (lambda path: path.symlink_to("/dev/zero"), "a device where a file should be"),
    "a dangling link": (lambda path: path.symlink_to("nowhere"), "No such file"),
    "huge": (huge, "larger than"),
}


@pytest.fixture(params=ODD)
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """A path with something odd, and what is said of it."""
    make, why = ODD[request.param]
    path = tmp_path / "directory" / "file"
    path.parent.mkdir()
    make(path)
    if not path.is_symlink() and not path.is_dir():
        path.chmod(0o600)
    return path, why


def test_a_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * MOST)
    assert read_file(path, MOST) == b"x" * MOST
    with pytest.raises(Unfit, match="larger than 99 bytes"):
        read_file(path, MOST - 1)
    with pytest.raises(Unfit, match="a path with a NUL names no file"):
        read_file("a\0b", MOST)
    link = tmp_path / "link"
    link.symlink_to(path)
    assert read_file(link, MOST) == b"x" * MOST
    with pytest.raises(Unfit, match="a symbolic link where a file should be"):
        read_file(link, MOST, follow=False)
    assert read_file("/dev/null", MOST) == b""
    assert loaded(Path("/dev/null"), {}, {}).origins == {}
    assert read_file("/proc/self/stat", 1 << 16).startswith(b"%d " % os.getpid())


def test_what_is_odd_is_said_in_a_sentence(odd: tuple[Path, str]) -> None:
    path, why = odd
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match=why):
        read_file(path, MOST)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_every_reader_of_files_says_so_and_goes_on(odd: tuple[Path, str]) -> None:
    path, _ = odd
    secrets = PasswordFiles(path.parent.parent)
    ref = (path.parent.name, path.name)
    assert secrets.read([ref]) == {}  # type: ignore[list-item]
    assert secrets.unreadable[ref].startswith(f"{path}: ")  # type: ignore[index]
    assert file_text(path) == ""


def test_a_drain_file_that_is_odd_counts_as_a_drain_and_can_be_taken_back(odd: tuple[Path, str]) -> None:
    path, why = odd
    path.rename(path.parent / "drained.json")
    file = DrainFile(path.parent)
    found = file.read()
    assert (found is None) == why.startswith("No such")
    if not why.startswith("a directory"):
        file.write(None)
        assert file.read() is None


@pytest.mark.parametrize("key", ["password_file", "ca_file", "cert_file", "key_file"])
def test_a_file_of_the_datastores_settings_that_is_odd_is_one_sentence(
    odd: tuple[Path, str], key: str
) -> None:
    path, _ = odd
    given: dict[str, str] = {key: str(path)}
    if key == "password_file":
        given["username"] = "u"
    if key in ("cert_file", "key_file"):
        given |= {"cert_file": str(path), "key_file": str(path)}
    settings = EtcdSettings(endpoints=["https://127.0.0.1:1"], **given)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=str(path)) as caught:
        check_files(settings)
    assert "\n" not in str(caught.value)
    assert MOST_TLS_BYTES < 1 << 40


def test_a_settings_file_that_is_odd_is_one_sentence(odd: tuple[Path, str], tmp_path: Path) -> None:
    path, why = odd
    drop_in = tmp_path / "conf.d" / "a.toml"
    source = tmp_path / "agent.toml"
    source.write_text("")
    drop_in.parent.mkdir()
    path.rename(drop_in)
    with pytest.raises(ConfigError, match=f"{drop_in}: cannot be read: .*{why}"):
        loaded(source, {}, {})
    assert MOST_FILE_BYTES < 1 << 40


def test_a_file_is_put_in_place_of_what_is_odd(odd: tuple[Path, str]) -> None:
    path, why = odd
    if why.startswith("a directory"):
        with pytest.raises(OSError, match="directory"):
            put_file(path, b"content", 0o600)
    else:
        assert put_file(path, b"content", 0o600)
        assert (path.is_symlink(), path.read_bytes()) == (False, b"content")
    assert [found.name for found in path.parent.iterdir()] == [path.name]
