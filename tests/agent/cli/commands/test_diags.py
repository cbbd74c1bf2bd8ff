"""`tortie node diags`: everything that answers, nothing secret, and the archive whole or not at all."""

from __future__ import annotations

import os
import subprocess
import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.cli.command import CommandFailed
from agent.cli.commands import diags
from agent.cli.commands.diags import COMMANDS, Source, known_secrets, sources, write_archive
from agent.cli.redaction import GONE, Redactor
from agent.configuration.config import Config, EtcdSettings, PathSettings

NOW = datetime(2026, 11, 23, tzinfo=UTC)
SECRET = "s3cr3t-Xy9"


def failing() -> str:
    raise OSError("it is away")


def slow() -> str:
    raise subprocess.TimeoutExpired(["nft"], 15)


def some() -> Iterator[tuple[str, Source]]:
    yield "kernel/routes.txt", lambda: f"10.0.0.0/26 via 172.26.0.2\npassword = {SECRET}\n"
    yield "agent/status.json", failing
    yield "kernel/nftables.txt", slow


def contents(archive: Path) -> dict[str, str]:
    found = {}
    with tarfile.open(archive) as opened:
        for entry in opened:
            file = opened.extractfile(entry)
            assert file is not None
            found[entry.name.removeprefix("tortie-diags/")] = file.read().decode()
    return found


def test_what_fails_costs_only_itself_and_the_manifest_says_so(tmp_path: Path) -> None:
    output = tmp_path / "d.tar.gz"
    assert write_archive(output, some(), NOW, Redactor()) == (3, 2)
    found = contents(output)
    assert "via 172.26.0.2" in found["kernel/routes.txt"]
    assert SECRET not in "".join(found.values())
    assert "agent/status.json: no answer: it is away" in found["MANIFEST.txt"]
    assert "kernel/nftables.txt: no answer: Command '['nft']' timed out" in found["MANIFEST.txt"]
    assert output.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [output]


def test_an_archive_takes_nobodys_place_and_leaves_nothing_half(tmp_path: Path) -> None:
    output = tmp_path / "d.tar.gz"
    output.write_text("mine")
    with pytest.raises(CommandFailed, match="exists already"):
        write_archive(output, some(), NOW, Redactor())
    assert output.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [output]
    with pytest.raises(CommandFailed, match="No such file or directory"):
        write_archive(tmp_path / "no" / "d.tar.gz", some(), NOW, Redactor())


def test_commands_are_words_and_only_look() -> None:
    changing = {"add", "del", "delete", "set", "flush", "replace", "restart", "-w", "--write"}
    assert [name for name, words in COMMANDS.items() if changing & set(words)] == []


def test_a_link_or_a_file_of_others_is_never_written_through(tmp_path: Path) -> None:
    victim, output = tmp_path / "victim", tmp_path / "d.tar.gz"
    victim.write_text("theirs")
    output.symlink_to(victim)
    with pytest.raises(CommandFailed, match="exists already"):
        write_archive(output, some(), NOW, Redactor())
    assert (victim.read_text(), output.is_symlink()) == ("theirs", True)
    assert sorted(tmp_path.iterdir()) == [output, victim]


def test_nobody_can_foresee_the_name_of_an_unfinished_archive(tmp_path: Path) -> None:
    names = set()

    def seen() -> Iterator[tuple[str, Source]]:
        names.update(path.name for path in tmp_path.iterdir() if path.name.startswith("."))
        yield from some()

    for number in range(3):
        write_archive(tmp_path / f"{number}.tar.gz", seen(), NOW, Redactor())
    assert len(names) == 3
    assert all(len(name.rpartition(".")[2]) == 16 for name in names)


def test_the_secrets_of_this_node_are_known_by_their_values_and_their_files_stay_out(tmp_path: Path) -> None:
    etc = tmp_path / "etc"
    secret = etc / "secrets" / "bgp" / "rack1"
    secret.parent.mkdir(parents=True)
    secret.write_text("x1!\n")  # too short to be known by its value
    for name, text in {"etcd.pass": f"{SECRET}-etcd\n", "etcd.pem.key": f"-----\n{SECRET}-line\n"}.items():
        (etc / name).write_text(text)
    (etc / "notes.txt").write_text(
        f"the password of etcd is {SECRET}-etcd, of the key {SECRET}-line, {SECRET}-var"
    )
    os.mkfifo(etc / "secrets" / "bgp" / "pipe")
    settings = Config(
        etcd=EtcdSettings(password_file=str(etc / "etcd.pass"), key_file=str(etc / "etcd.pem.key")),
        paths=PathSettings(secrets=str(etc / "secrets"), run=str(tmp_path)),
    )
    environment = {
        "MY_API_TOKEN": f"{SECRET}-var",
        "ETCD_PASSWORD_FILE": "/etc/tortie/etcd.pass",
        "HOME": "/root",
    }
    known = sorted(known_secrets(settings, environment))
    assert known == sorted(["x1!", f"{SECRET}-etcd", f"-----\n{SECRET}-line", f"{SECRET}-var"])
    files = [(name, source) for name, source in sources(settings, (etc,)) if name.startswith("files")]
    assert [name for name, _ in files] == [f"files{etc}/notes.txt"]
    output = tmp_path / "d.tar.gz"
    write_archive(output, iter(files), NOW, Redactor(known))
    assert SECRET not in "".join(contents(output).values())


def test_a_secret_that_the_bound_would_cut_in_two_is_removed_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diags, "MOST_SOURCE_BYTES", len(SECRET) // 2 + 10)
    output = tmp_path / "d.tar.gz"
    write_archive(output, iter([("a", lambda: f"password={SECRET}\n0123456789")]), NOW, Redactor())
    assert SECRET[-4:] not in contents(output)["a"]
    assert GONE[-4:] in contents(output)["a"]
