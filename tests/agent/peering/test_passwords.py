"""Passwords of peers: files that only their owner reads, in use through a slip of the hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.peering.passwords import MOST_SECRET_BYTES, PasswordFiles

REF = ("bgp", "tor")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "bgp" / "tor"
    path.parent.mkdir()
    path.write_text("hunter2\n")
    path.chmod(0o600)
    return path


def test_a_password_is_the_files_text_without_its_last_line_end(file: Path) -> None:
    secrets = PasswordFiles(file.parents[1])
    assert secrets.read([REF]) == {REF: "hunter2"}
    assert secrets.unreadable == {}


def test_a_changed_file_is_read_again(file: Path) -> None:
    secrets = PasswordFiles(file.parents[1])
    secrets.read([REF])
    file.write_text("changed")
    assert secrets.read([REF]) == {REF: "changed"}


def test_a_file_put_in_place_by_rename_is_read_again(file: Path) -> None:
    secrets = PasswordFiles(file.parents[1])
    secrets.read([REF])
    other = file.with_name("new")
    other.write_text("renamed")
    other.chmod(0o600)
    os.replace(other, file)
    assert secrets.read([REF]) == {REF: "renamed"}


def spoil_mode(path: Path) -> None:
    path.chmod(0o644)


def spoil_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def spoil_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


SPOILS = [
    pytest.param(spoil_mode, "open to everybody; chmod it to 0640 or less", id="everybody may read it"),
    pytest.param(Path.unlink, "No such file or directory", id="gone"),
    pytest.param(spoil_directory, "a directory where a file should be", id="a directory"),
    pytest.param(spoil_fifo, "a FIFO where a file should be", id="a fifo, which must not hang us"),
    pytest.param(lambda path: path.write_text("\n"), "must hold a password of 1 to 4096 bytes", id="empty"),
    pytest.param(lambda path: path.write_bytes(b"\xff"), "not UTF-8 text", id="not text"),
    pytest.param(
        lambda path: path.write_text("x" * (MOST_SECRET_BYTES + 1)),
        "must hold a password of 1 to 4096 bytes",
        id="too long",
    ),
]


@pytest.mark.parametrize(("spoil", "why"), SPOILS)
def test_what_cannot_be_used_is_said_and_the_last_good_password_stays(
    spoil: object, why: str, file: Path
) -> None:
    assert callable(spoil)
    before, new = PasswordFiles(file.parents[1]), PasswordFiles(file.parents[1])
    before.read([REF])
    spoil(file)
    assert before.read([REF]) == {REF: "hunter2"}
    assert new.read([REF]) == {}
    for secrets in (before, new):
        assert secrets.unreadable[REF] == f"{file}: {why}"
        assert "hunter2" not in repr(secrets.unreadable)


def test_a_password_that_is_not_required_any_more_is_dropped(file: Path) -> None:
    secrets = PasswordFiles(file.parents[1])
    secrets.read([REF])
    secrets.read([])
    file.unlink()
    assert secrets.read([REF]) == {}
