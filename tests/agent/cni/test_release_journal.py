"""What was recorded survives, in order; what is no release is told, kept, and in nobody's way; what is full refuses."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.cni.release_journal import (
    LONGEST_ID_IN_NAME,
    MOST_RELEASE_BYTES,
    STALE_SECONDS,
    JournalFull,
    Release,
    ReleaseJournal,
    Unplayable,
)
from tests.fixtures.odd_files import device, huge, listening_socket
from tests.fixtures.tiny_disk import TinyDisk, tiny_disk


def release(container: str = "c1", interface: str = "eth0") -> Release:
    return Release({"CNI_CONTAINERID": container, "CNI_IFNAME": interface}, '{"name":"ü"}')


async def pending(journal: ReleaseJournal) -> list[Release]:
    return [journal.read(journal.path(name)) for name in await journal.names("", 0.0)]


async def test_releases_come_back_as_they_were_oldest_first(tmp_path: Path) -> None:
    journal = ReleaseJournal(tmp_path)
    paths = [
        journal.record(release(container), stamp) for stamp, container in ((20, "b"), (10, "a"), (30, "c"))
    ]
    assert await pending(ReleaseJournal(tmp_path)) == [release("a"), release("b"), release("c")]
    journal.done(paths[1])
    journal.done(paths[1])
    assert await pending(journal) == [release("b"), release("c")]
    assert await journal.names(paths[0].name, 0.0) == [paths[2].name]


async def test_the_releases_of_one_attachment_are_told_from_ids_that_end_alike(tmp_path: Path) -> None:
    journal = ReleaseJournal(tmp_path)
    assert await journal.pending_of("c1", "eth0") == []
    mine = [journal.record(release(), stamp) for stamp in (1, 2)]
    journal.record(release("a-c1"), 3)
    journal.record(release("c1", "eth1"), 4)
    journal.record(release("c1-eth0"), 5)
    assert await journal.pending_of("c1", "eth0") == mine


async def test_an_id_that_is_too_long_for_a_name_is_told_from_one_that_begins_alike(tmp_path: Path) -> None:
    journal = ReleaseJournal(tmp_path)
    longest = [f"{'c' * 252}{number}" for number in range(2)]
    paths = [journal.record(release(container, "i" * 15), 10**18) for container in longest[:1]]
    paths += [journal.record(release(longest[1], "i" * 15), 10**18 + 1)]
    assert await pending(journal) == [release(container, "i" * 15) for container in longest]
    assert [await journal.pending_of(container, "i" * 15) for container in longest] == [
        [path] for path in paths
    ]
    whole = "d" * (LONGEST_ID_IN_NAME + 1)
    earlier = journal.record(release(whole), 2).rename(journal.path(f"2-{whole}-eth0.json"))
    assert await journal.pending_of(whole, "eth0") == [earlier]


def fifo(path: Path) -> None:
    os.mkfifo(path)


def too_large(path: Path) -> None:
    huge(path, MOST_RELEASE_BYTES + 1)


def text(content: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(content) and None


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a FIFO": (fifo, "a FIFO where a file should be"),
    "a socket": (listening_socket, "a socket where a file should be"),
    "a device": (device, "a device where a file should be"),
    "a directory": (Path.mkdir, "a directory where a file should be"),
    "a link": (lambda path: path.symlink_to("/dev/zero"), "a symbolic link where a file should be"),
    "a dangling link": (lambda path: path.symlink_to("nowhere"), "a symbolic link where a file should be"),
    "huge": (too_large, f"larger than {MOST_RELEASE_BYTES} bytes"),
    "empty": (text(""), "not a release"),
    "cut short": (text('{"environment":{"CNI_CONTAINERID":"bad"},"conf'), "not a release"),
    "another document": (text("[]"), "not a release"),
    "a wrong type": (text('{"environment": 5, "config": ""}'), "not a release"),
    "no configuration": (text('{"environment":{}}'), "not a release"),
    "deep": (text('{"environment":{},"config":"","x":' + "[" * 200_000), "not a release"),
    "half a pair": (text('{"environment":{"CNI_IFNAME":"\\ud800"},"config":""}'), "not"),
    "octets": (lambda path: path.write_bytes(bytes(range(256))) and None, "not a release"),
    "anothers": (
        text('{"environment":{"CNI_CONTAINERID":"x","CNI_IFNAME":"y"},"config":""}'),
        "its name is not",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_what_is_no_release_is_said_at_once_and_put_aside_with_its_reason(
    tmp_path: Path, damage: str
) -> None:
    journal = ReleaseJournal(tmp_path)
    journal.record(release(), 2)
    path = journal.path("1-bad-eth0.json")
    make, why = DAMAGES[damage]
    make(path)
    with pytest.raises(Unplayable, match=why) as caught:
        journal.read(path)
    journal.set_aside(path, str(caught.value))
    assert await pending(journal) == [release()]
    refused = journal.refused()
    assert (refused.count, refused.named) == (
        1,
        ((journal.directory / "refused" / path.name, str(caught.value)),),
    )
    assert os.path.lexists(refused.named[0][0])


async def test_a_name_without_a_file_is_no_release_and_no_fault_of_it(tmp_path: Path) -> None:
    journal = ReleaseJournal(tmp_path)
    with pytest.raises(FileNotFoundError):
        journal.read(journal.path("1-a-eth0.json"))
    assert (await journal.names("", 0.0), journal.refused().count) == ([], 0)


async def test_a_full_journal_refuses_and_forgets_nothing(tmp_path: Path) -> None:
    journal = ReleaseJournal(tmp_path, most=2)
    for stamp in (1, 2):
        journal.record(release(), stamp)
    with pytest.raises(JournalFull, match="holds 2 releases; is the datastore away for good"):
        journal.record(release(), 3)
    assert len(await pending(journal)) == 2
    again = ReleaseJournal(tmp_path, most=2)
    (first, _) = await again.names("", 0.0)
    assert again.is_full
    again.done(again.path(first))
    again.record(release(), 3)


async def test_what_others_left_in_the_directory_neither_counts_nor_disturbs(tmp_path: Path) -> None:
    journal = ReleaseJournal(tmp_path, most=2)
    journal.record(release(), 1)
    for number in range(5):
        (journal.directory / f".{number}.new").touch()
        (journal.directory / f"{number}.swp").touch()
    (journal.directory / "old.new").mkdir()
    assert await journal.names("", STALE_SECONDS * 1e6) == ["1-c1-eth0.json"]
    journal.record(release(), 2)
    assert sorted(path.name for path in journal.directory.glob("*.new")) == ["old.new"]


async def test_what_a_killed_writer_left_is_swept_once_nobody_can_be_writing_it(tmp_path: Path) -> None:
    journal = ReleaseJournal(tmp_path)
    assert await journal.names("", 0.0) == []
    kept = journal.record(release(), 1)
    old, young = kept.with_name("2-c-eth0.json.new"), kept.with_name("3-c-eth0.json.new")
    for path, age in ((old, STALE_SECONDS + 1), (young, 1.0)):
        path.write_text("{")
        os.utime(path, (1e6 - age, 1e6 - age))
    os.utime(kept, (0, 0))
    assert await journal.names("", 1e6) == [kept.name]
    assert sorted(path.name for path in kept.parent.iterdir()) == [kept.name, young.name]


# -- disks that are full, or read-only --------------------------------------------------------------------------------


@pytest.fixture
def disk() -> Iterator[TinyDisk]:
    with tiny_disk() as made:
        yield made


async def test_a_full_disk_takes_no_release_keeps_those_there_were_and_has_nothing_half_written(
    disk: TinyDisk,
) -> None:
    journal = ReleaseJournal(disk.path)
    kept = journal.record(release(), 1)
    assert journal.unwritable() is None
    disk.fill()
    with pytest.raises(OSError, match="No space left"):
        journal.record(Release(release("c2").environment, "x" * 100_000), 2)
    assert [path.name for path in journal.directory.iterdir()] == [kept.name]
    assert (journal.unwritable(), await pending(journal)) == ("its file system is full", [release()])
    bad = journal.path("0-bad-eth0.json")
    bad.touch()
    journal.set_aside(bad, "x" * 5000)
    assert (await pending(journal), journal.refused().count) == ([release()], 1)
    journal.done(kept)
    disk.empty()
    assert journal.unwritable() is None
    journal.record(release(), 3)


async def test_a_read_only_disk_is_said_and_what_is_on_it_can_be_read(disk: TinyDisk) -> None:
    journal = ReleaseJournal(disk.path)
    kept = journal.record(release(), 1)
    disk.read_only(on=True)
    assert (journal.unwritable(), await pending(journal)) == ("its file system is read-only", [release()])
    for change in (
        lambda: journal.record(release(), 2),
        lambda: journal.done(kept),
        lambda: journal.set_aside(kept, ""),
    ):
        with pytest.raises(OSError, match="Read-only"):
            change()
    disk.read_only(on=False)
    journal.done(kept)


# -- very many files --------------------------------------------------------------------------------------------------

FILES = 100_000
LONGEST_HOLD_SECONDS = 0.1


@pytest.fixture
def crowded() -> Iterator[ReleaseJournal]:
    """A directory in memory with 100,000 names, and one release among them."""
    with tiny_disk(64 << 20) as disk:
        journal = ReleaseJournal(disk.path)
        journal.record(release(), 1)
        directory = os.open(journal.directory, os.O_RDONLY)
        try:
            for number in range(FILES):
                os.mknod(f"{number}", stat.S_IFREG | 0o600, dir_fd=directory)
        finally:
            os.close(directory)
        yield journal


async def longest_hold(until: asyncio.Task[object]) -> float:
    """For how long at most the loop was held while a task ran, by its thread's own time."""
    longest = 0.0
    while not until.done():
        began = time.thread_time()
        await asyncio.sleep(0)
        longest = max(longest, time.thread_time() - began)
    return longest


async def test_a_hundred_thousand_files_do_not_hold_the_loop(crowded: ReleaseJournal) -> None:
    for work in (crowded.names("", 0.0), crowded.pending_of("c1", "eth0")):
        task: asyncio.Task[object] = asyncio.create_task(work)  # type: ignore[arg-type]
        held = await longest_hold(task)
        print(f"{FILES} files: the loop was held for {held * 1000:.1f} ms at most")
        assert held < LONGEST_HOLD_SECONDS
        assert len(task.result()) == 1  # type: ignore[arg-type]
    crowded.record(release("c2"), 2)
