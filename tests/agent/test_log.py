"""What is logged: journald's protocol, repeats, and never a secret."""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from agent.configuration.config import ConfigError
from agent.configuration.loading import load
from agent.datastore.etcd_settings import etcd_config
from agent.logging import journald
from agent.logging.log import (
    LONGEST_TEXT,
    MOST_ALIKE,
    MOST_OF_EVENT,
    MOST_REMEMBERED,
    WINDOW_SECONDS,
    RepeatFilter,
    printable_fields,
)
from ipam.etcd.client import EtcdStore
from ipam.failures import StoreError

SECRET = "hunter2-do-not-log"
PROGRAM = """
import sys
from pathlib import Path
from agent.logging import log
log.configure("info", sys.argv[2], journal_socket=Path(sys.argv[1]))
import structlog
structlog.get_logger().warning("datastore.away", prefix="/calico/", why="two\\nlines")
"""


def fields(data: bytes) -> dict[str, str]:
    """A datagram as journald reads it."""
    found = {}
    while data:
        line, _, rest = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (length,) = struct.unpack("<Q", rest[:8])
            value, end = rest[8 : 8 + length], rest[8 + length : 9 + length]
            assert end == b"\n"
            rest = rest[9 + length :]
        found[name.decode()] = value.decode()
        data = rest
    return found


def test_under_systemd_events_reach_journald_as_fields(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening,
        (tmp_path / "err").open("w") as stderr,
    ):
        listening.bind(str(path))
        listening.settimeout(20)
        status = os.fstat(stderr.fileno())
        environment = {**os.environ, "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        command = [sys.executable, "-c", PROGRAM, str(path), "human"]
        subprocess.run(command, check=True, stderr=stderr, env=environment, timeout=60)
        sent = fields(listening.recv(1 << 16))
    assert sent == {
        "MESSAGE": "level=warning event=datastore.away prefix=/calico/ why=two\\nlines",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "tortie-agent",
        "MESSAGE_ID": journald.message_id("datastore.away"),
        "TORTIE_LEVEL": "warning",
        "TORTIE_EVENT": "datastore.away",
        "TORTIE_PREFIX": "/calico/",
        "TORTIE_WHY": "two\nlines",
    }
    path.unlink()
    with (tmp_path / "err").open("w") as stderr:
        subprocess.run(command, check=True, stderr=stderr, env=environment, timeout=60)
    assert (tmp_path / "err").read_text().startswith("<4>level=warning event=datastore.away")
    with (tmp_path / "err").open("w") as stderr:
        subprocess.run([*command[:-1], "json"], check=True, stderr=stderr, env=environment, timeout=60)
    text = (tmp_path / "err").read_text()
    assert (text[:3], json.loads(text[3:])["event"]) == ("<4>", "datastore.away")


@given(st.dictionaries(st.text(min_size=1, max_size=80), st.text() | st.integers()), st.text())
def test_any_event_is_a_datagram_that_can_be_read(event: dict[str, object], message: str) -> None:
    sent = fields(journald.datagram(message, 6, event))
    assert sent["PRIORITY"] == "6"
    assert all(len(name) <= journald.LONGEST_NAME and not journald.NOT_IN_NAME.search(name) for name in sent)


def test_a_stream_that_only_inherited_the_variable_is_not_the_journals() -> None:
    assert not journald.is_journal(io.StringIO(), {"JOURNAL_STREAM": "1:2"})
    assert not journald.is_journal(sys.__stderr__, {"JOURNAL_STREAM": "1:2"})  # type: ignore[arg-type]


@given(
    st.text(st.characters(exclude_categories=[]))
    | st.sampled_from(["\r<3>x", "\x1b[2J", "\ud800", "x" * 20_000])
)
def test_no_text_from_outside_forges_a_line_moves_a_cursor_or_cannot_be_written(text: str) -> None:
    event = printable_fields(None, "", {"event": "cni.refused", "why": text, "code": 4})
    lines = [
        structlog.processors.LogfmtRenderer()(None, "", dict(event)),
        structlog.processors.JSONRenderer()(None, "", dict(event)),
    ]
    assert all(
        line.isprintable() and len(line.encode()) < 7 * LONGEST_TEXT
        for line in lines
        if isinstance(line, str)
    )
    assert json.loads(str(lines[1]))["code"] == 4
    assert fields(journald.datagram("m", 6, event))["PRIORITY"] == "6"


def passed(repeats: RepeatFilter, **event: object) -> dict[str, object] | None:
    try:
        return dict(repeats(None, "", dict(event)))
    except structlog.DropEvent:
        return None


def test_what_is_said_again_and_again_is_counted_and_said_later() -> None:
    now = [0.0]
    repeats = RepeatFilter(lambda: now[0])
    sent = [passed(repeats, event="away", why="x") for _ in range(MOST_ALIKE + 7)]
    assert [one is not None for one in sent] == [True] * MOST_ALIKE + [False] * 7
    assert passed(repeats, event="away", why="y") == {"event": "away", "why": "y"}
    now[0] = WINDOW_SECONDS
    assert passed(repeats, event="away", why="x") == {"event": "away", "why": "x", "repeated": 7}
    assert passed(repeats, event="away", why="x") == {"event": "away", "why": "x"}


def test_a_storm_of_one_event_is_bounded_whatever_its_fields() -> None:
    repeats = RepeatFilter(lambda: 0.0)
    sent = [passed(repeats, event="refused", number=number) for number in range(3 * MOST_OF_EVENT)]
    assert sum(one is not None for one in sent) == MOST_OF_EVENT
    assert passed(repeats, event="other") is not None
    assert len(repeats._seen) <= MOST_REMEMBERED


@pytest.mark.parametrize(
    ("text", "environment", "flags"),
    [
        (f"[etcd]\npassword = '{SECRET}'", {}, {}),
        (f"[etcd]\npassword_file = '{SECRET}'", {}, {}),
        (f"[etcd]\npassword_file = ['{SECRET}']", {}, {}),
        (f"[etcd]\nendpoints = ['http://root:{SECRET}@127.0.0.1:1']", {}, {}),
        (f"[etcd]\npassword = '{SECRET}", {}, {}),
        ("", {"TORTIE_ETCD_PASSWORD": SECRET}, {}),
        ("", {"TORTIE_ETCD_PASSWORD_FILE": SECRET}, {}),
        ("", {"ETCD_ENDPOINTS": f"http://root:{SECRET}@127.0.0.1:1"}, {}),
        ("", {}, {"etcd.endpoints": f"https://root:{SECRET}@a:1"}),
    ],
)
def test_a_secret_in_the_wrong_place_is_refused_and_not_repeated(
    tmp_path: Path, text: str, environment: dict[str, str], flags: dict[str, str]
) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        etcd_config(load(file, environment, {"node.name": "n", **flags}).etcd)
    assert SECRET not in str(caught.value)


async def test_a_secret_in_the_right_place_is_in_no_text_either(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "password"
    file.write_text(f"{SECRET}\n")
    file.chmod(0o600)
    environment = {"TORTIE_ETCD_USERNAME": "root", "TORTIE_ETCD_PASSWORD_FILE": str(file)}
    config = load(None, {**environment, "TORTIE_ETCD_ENDPOINTS": "http://127.0.0.1:1"}, {"node.name": "n"})
    made = etcd_config(config.etcd)
    assert made.secret() == SECRET
    store = EtcdStore(made)
    with pytest.raises(StoreError) as caught:
        await store.get("/a")
    texts = [
        repr(made),
        str(made),
        repr(config),
        str(caught.value),
        repr(store),
        json.dumps(str(vars(store))),
    ]
    structlog.get_logger().error("x", config=made, settings=config, store=store)
    texts += capsys.readouterr()
    assert [text for text in texts if SECRET in text] == []
    await store.close()
