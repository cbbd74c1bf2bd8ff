"""What systemd is told, and settings that are read again."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from agent.clock import SystemClock
from agent.configuration.config import Config, ConfigError, LogSettings
from agent.service.readiness import PATIENCE_SECONDS, Readiness, is_ready, status_text, why_not_ready
from agent.service.sd_notify import MOST_STATUS, Notifier
from agent.service.settings_reload import SettingsReload, changed_settings
from agent.service.supervision import Supervision

SERVING = Readiness(not_ready=None, passes=1, pods=2, peers=3, peers_up=3)
MORE_THAN_FITS = 10_000
AWAY = Readiness(not_ready="the datastore is away: refused", passes=1)


class Systemd:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        found = []
        with suppress(BlockingIOError):
            while True:
                found += self.socket.recv(4096).decode().split("\n")
        return found


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    made = Systemd(str(tmp_path / "notify"))
    yield made
    made.socket.close()


def notifier(tmp_path: Path, **more: str) -> Notifier:
    return Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), **more}, pid=7)


async def until(systemd: Systemd, line: str) -> list[str]:
    """Everything heard until a line comes."""
    found: list[str] = []
    async with asyncio.timeout(5):
        while line not in found:
            heard = await asyncio.get_running_loop().sock_recv(systemd.socket, 4096)
            found += heard.decode().split("\n")
    return found


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdogs_time_is_the_one_meant_for_this_process(
    environment: dict[str, str], seconds: float | None
) -> None:
    assert Notifier(environment, pid=7).watchdog_seconds == seconds


def test_nobody_who_listens_is_no_fault_and_who_comes_later_hears_what_is_said_then(tmp_path: Path) -> None:
    told = notifier(tmp_path)
    told.notify("READY=1")
    assert list(tmp_path.iterdir()) == []
    later = Systemd(str(tmp_path / "notify"))
    told.notify("WATCHDOG=1")
    Notifier({}, pid=7).notify("STOPPING=1")  # of a process that nobody manages
    assert later.heard() == ["WATCHDOG=1"]
    later.socket.close()


@pytest.mark.timeout(30)
def test_a_listener_that_takes_no_more_is_not_waited_for_and_is_told_again_once_it_does(
    tmp_path: Path, systemd: Systemd
) -> None:
    told = notifier(tmp_path)
    for number in range(MORE_THAN_FITS):
        told.notify(f"STATUS={number}")
    heard = systemd.heard()
    assert 0 < len(heard) < MORE_THAN_FITS
    assert heard == [f"STATUS={number}" for number in range(len(heard))]
    told.notify("READY=1")
    assert systemd.heard() == ["READY=1"]


def test_a_socket_of_the_abstract_namespace_is_reached(tmp_path: Path) -> None:
    name = f"tortie-{tmp_path}"
    other = Systemd("\0" + name)
    Notifier({"NOTIFY_SOCKET": f"@{name}"}, pid=7).notify("READY=1", "WATCHDOG=1")
    assert other.heard() == ["READY=1", "WATCHDOG=1"]
    other.socket.close()


def test_a_status_is_one_short_line(tmp_path: Path, systemd: Systemd) -> None:
    notifier(tmp_path).status("two\nlines " + "x" * 1000)
    (line,) = systemd.heard()
    assert line.startswith("STATUS=two lines x")
    assert len(line) == len("STATUS=") + MOST_STATUS


@pytest.mark.parametrize(
    ("readiness", "passes_when_in_sync", "age", "ready"),
    [
        (AWAY, None, 0.0, False),
        (SERVING, 1, 0.0, False),
        (replace(SERVING, passes=2), 1, 0.0, True),
        (AWAY, None, PATIENCE_SECONDS, True),
    ],
)
def test_ready_is_a_pass_after_the_datastore_was_read_or_the_end_of_patience(
    readiness: Readiness, passes_when_in_sync: int | None, age: float, ready: bool
) -> None:
    assert is_ready(readiness, passes_when_in_sync, age) is ready


@pytest.mark.parametrize(
    ("readiness", "text"),
    [
        (SERVING, "2 pods; 3 of 3 peers up"),
        (
            AWAY,
            "routes stay as they were: the datastore is away: refused; 0 pods; 0 of 0 peers up",
        ),
        (replace(SERVING, drained=True, pods=1, peers=1, peers_up=0), "drained; 1 pod; 0 of 1 peer up"),
        (
            replace(SERVING, reload_refused="bgp.hold: unknown key", troubles=("port 179 is taken",)),
            "reload refused: bgp.hold: unknown key; 2 pods; 3 of 3 peers up; port 179 is taken",
        ),
    ],
)
def test_the_status_says_the_most_urgent_first(readiness: Readiness, text: str) -> None:
    assert status_text(readiness) == text


async def test_ready_once_then_signs_of_life_and_status_as_it_changes(
    tmp_path: Path, systemd: Systemd
) -> None:
    now = [AWAY]
    asked: list[int] = []
    told = Supervision(
        notifier(tmp_path, WATCHDOG_USEC="80000"),
        lambda: now[0],
        lambda: asked.append(1),
        lambda: False,
        SystemClock(),
    )
    task = asyncio.create_task(told.run())
    before = await until(systemd, f"STATUS={status_text(AWAY)}")
    assert "READY=1" not in before
    now[0] = SERVING
    await until(systemd, f"STATUS={status_text(SERVING)}")
    assert asked == [1]
    now[0] = replace(SERVING, passes=2)
    assert (await until(systemd, "READY=1")).count("READY=1") == 1
    after = await until(systemd, "WATCHDOG=1")
    assert [line for line in after if line.startswith(("READY", "STATUS"))] == []
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert systemd.heard()[-2:] == ["STOPPING=1", "STATUS=stopping; routes stay as they are"]


async def test_a_failure_of_it_is_no_stop_and_it_may_run_again(tmp_path: Path, systemd: Systemd) -> None:
    answers: list[Readiness | Exception] = [KeyError("peers")]

    def readiness() -> Readiness:
        found = answers.pop(0) if answers else SERVING
        if isinstance(found, Exception):
            raise found
        return found

    told = Supervision(notifier(tmp_path), readiness, lambda: None, lambda: False, SystemClock())
    with pytest.raises(KeyError):
        await told.run()
    assert systemd.heard() == []
    task = asyncio.create_task(told.run())
    await until(systemd, "WATCHDOG=1")
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_a_process_that_begins_again_does_not_say_that_it_stops_and_has_the_time_of_a_start(
    tmp_path: Path, systemd: Systemd
) -> None:
    sends = notifier(tmp_path, WATCHDOG_USEC="3000000")
    told = Supervision(sends, lambda: SERVING, lambda: None, lambda: True, SystemClock())
    task = asyncio.create_task(told.run())
    await until(systemd, "WATCHDOG=1")
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    heard = systemd.heard()
    assert "STOPPING=1" not in heard
    assert heard[-1] == "WATCHDOG_USEC=300000000"
    again = asyncio.create_task(told.run())
    assert "WATCHDOG_USEC=3000000" in await until(systemd, "WATCHDOG=1")
    again.cancel()
    with suppress(asyncio.CancelledError):
        await again


def test_bad_settings_change_nothing_and_say_why() -> None:
    begun: list[int] = []

    def bad() -> Config:
        raise ConfigError("agent.toml: bgp.hold: unknown key")

    reloading = SettingsReload(Config(), bad, lambda: begun.append(1))
    with pytest.raises(ValueError, match=r"bgp.hold: unknown key \(the settings in force stay\)"):
        reloading.reload()
    assert (begun, reloading.wanted) == ([], False)
    assert reloading.refused == "agent.toml: bgp.hold: unknown key"


def test_the_same_settings_are_no_reason_to_begin_again_and_end_the_complaint() -> None:
    begun: list[int] = []
    reloading = SettingsReload(Config(), Config, lambda: begun.append(1))
    reloading.refused = "earlier"
    assert reloading.reload() == {"changed": []}
    assert (begun, reloading.wanted, reloading.refused) == ([], False, None)


def test_other_settings_begin_again_and_are_named() -> None:
    begun: list[int] = []
    other = Config(log=LogSettings(level="debug"))
    reloading = SettingsReload(Config(), lambda: other, lambda: begun.append(1))
    assert reloading.reload() == {"changed": ["log.level"]}
    assert (begun, reloading.wanted) == ([1], True)
    assert changed_settings(other, Config(log=LogSettings(format="json"))) == ("log.level", "log.format")


@pytest.mark.parametrize(
    ("in_sync", "trouble", "unregistered", "why"),
    [
        (True, None, None, None),
        (False, None, None, "the datastore has not been read yet (still reading)"),
        (False, "refused", None, "the datastore has not been read yet (refused)"),
        (True, "refused", "no address", "the datastore is away: refused"),
        (True, None, "no address", "the node is not registered: no address"),
    ],
)
def test_a_node_is_ready_once_its_datastore_is_read_and_answers_and_it_is_registered(
    in_sync: bool, trouble: str | None, unregistered: str | None, why: str | None
) -> None:
    found = why_not_ready(in_sync=in_sync, datastore_trouble=trouble, unregistered=unregistered)
    assert found == why
    full = "etcd takes no writes: NOSPACE"
    found = why_not_ready(
        in_sync=in_sync, datastore_trouble=trouble, unregistered=unregistered, no_writes=full
    )
    assert found == (why if trouble is not None or not in_sync else full)
