"""What was recorded survives, in order; what is damaged is reported; what is full refuses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.cni.release_journal import STALE_SECONDS, JournalFull, Release, ReleaseJournal


def release(container: str = "c1", interface: str = "eth0") -> Release:
    return Release({"CNI_CONTAINERID": container, "CNI_IFNAME": interface}, '{"name":"ü"}')


def test_releases_come_back_as_they_were_oldest_first(tmp_path: Path) -> None:
    journal = ReleaseJournal(tmp_path)
    for stamp, container in ((20, "b"), (10, "a"), (30, "c")):
        journal.record(release(container), stamp)
    found = ReleaseJournal(tmp_path).pending(lambda *_: None)
    assert [one for _, one in found] == [release("a"), release("b"), release("c")]
    journal.done(found[0][0])
    journal.done(found[0][0])
    assert [one for _, one in journal.pending(lambda *_: None)] == [release("b"), release("c")]


def test_the_releases_of_one_attachment_are_told_from_ids_that_end_alike(tmp_path: Path) -> None:
    journal = ReleaseJournal(tmp_path)
    assert journal.pending_of("c1", "eth0") == []
    mine = [journal.record(release(), stamp) for stamp in (1, 2)]
    journal.record(release("a-c1"), 3)
    journal.record(release("c1", "eth1"), 4)
    journal.record(release("c1-eth0"), 5)
    assert journal.pending_of("c1", "eth0") == mine


@pytest.mark.parametrize("text", ["", "{", "[]", '{"environment": 5, "config": ""}', '{"config": ""}'])
def test_a_damaged_release_is_reported_kept_and_holds_up_no_other(tmp_path: Path, text: str) -> None:
    journal = ReleaseJournal(tmp_path)
    path = journal.record(release("bad"), 1)
    journal.record(release(), 2)
    path.write_text(text)
    reported: list[Path] = []
    found = journal.pending(lambda at, _: reported.append(at))
    assert ([one for _, one in found], reported) == ([release()], [path])
    assert path.exists()


def test_a_release_set_aside_is_kept_and_not_pending(tmp_path: Path) -> None:
    journal = ReleaseJournal(tmp_path)
    path = journal.record(release(), 1)
    journal.set_aside(path)
    assert journal.pending(lambda *_: None) == []
    assert path.with_suffix(".refused").exists()


def test_a_full_journal_refuses_and_forgets_nothing(tmp_path: Path) -> None:
    journal = ReleaseJournal(tmp_path, most=2)
    for stamp in (1, 2):
        journal.record(release(), stamp)
    with pytest.raises(JournalFull, match="holds 2 releases; is the datastore away for good"):
        journal.record(release(), 3)
    assert len(journal.pending(lambda *_: None)) == 2


def test_what_a_killed_writer_left_is_swept_once_nobody_can_be_writing_it(tmp_path: Path) -> None:
    journal = ReleaseJournal(tmp_path)
    journal.sweep(0.0)
    kept = journal.record(release(), 1)
    old, young = kept.with_name("2-c-eth0.json.new"), kept.with_name("3-c-eth0.json.new")
    for path, age in ((old, STALE_SECONDS + 1), (young, 1.0)):
        path.write_text("{")
        os.utime(path, (1e6 - age, 1e6 - age))
    os.utime(kept, (0, 0))
    journal.sweep(1e6)
    assert sorted(path.name for path in kept.parent.iterdir()) == [kept.name, young.name]
