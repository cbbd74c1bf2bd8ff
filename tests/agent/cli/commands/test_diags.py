"""`tortie node diags`: everything that answers, nothing secret, and the archive whole or not at all."""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.cli.command import CommandFailed
from agent.cli.commands.diags import COMMANDS, Source, write_archive
from agent.cli.redaction import GONE, redacted

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
    assert write_archive(output, some(), NOW) == (3, 2)
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
        write_archive(output, some(), NOW)
    assert output.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [output]
    with pytest.raises(CommandFailed, match="No such file or directory"):
        write_archive(tmp_path / "no" / "d.tar.gz", some(), NOW)


@pytest.mark.parametrize(
    "text",
    [
        f"password = {SECRET}",
        f'password = "{SECRET}"',
        f"etcd.password: '{SECRET}'",
        f'{{"bgpPassword": "{SECRET}", "as": 1}}',
        f"client_secret={SECRET}; next=1",
        f"X-Auth-Token: {SECRET}",
        f"https://root:{SECRET}@10.0.0.1:2379/",
        f"Authorization: Bearer {SECRET}",
        f"-----BEGIN EC PRIVATE KEY-----\n{SECRET}\n-----END EC PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n",
        f'level=info event=x token="{SECRET} and more"',
        f"    client-key-data: {SECRET}",
    ],
)
def test_a_secret_is_removed_however_it_is_written(text: str) -> None:
    assert SECRET not in redacted(text)
    assert GONE in redacted(text)


@pytest.mark.parametrize(
    "text",
    [
        'password_file = "/etc/tortie/etcd.password"',
        "10.0.0.0/26 via 172.26.0.2 dev eth0 proto bird onlink",
        "https://10.0.0.1:2379/health",
        "cni.added pod=web address=192.168.0.1/32",
        "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text) == text


def test_commands_are_words_and_only_look() -> None:
    changing = {"add", "del", "delete", "set", "flush", "replace", "restart", "-w", "--write"}
    assert [name for name, words in COMMANDS.items() if changing & set(words)] == []
