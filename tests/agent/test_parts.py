"""A part that fails is run again, is a trouble until it has run well, and ends nobody else."""

from __future__ import annotations

import asyncio
import errno
from contextlib import suppress
from typing import Any

import pytest

from agent import parts as module
from agent.netlink.kernel_errors import Incomplete, KernelError
from agent.parts import LISTENERS, Parts
from agent.trouble import TroubleKind
from ipam.failures import StoreUnavailable

PATIENCE_SECONDS = 20


class Log:
    """Takes events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def error(self, event: str, **fields: Any) -> None:
        self.events.append((event, fields))

    info = warning = error


class Failing:
    """A part that raises these one after the other, and then runs for ever."""

    def __init__(self, *errors: BaseException) -> None:
        self._errors = list(errors)
        self.runs = 0
        self.well = asyncio.Event()

    async def run(self) -> None:
        self.runs += 1
        if self._errors:
            raise self._errors.pop(0)
        self.well.set()
        await asyncio.get_running_loop().create_future()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(module, "CALM_SECONDS", 0.05)


async def settled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EMFILE, "Too many open files"),
        KernelError("opening a netlink socket of protocol 0: Too many open files"),
        Incomplete("a dump of type 24 was interrupted 8 times by changes"),
        StoreUnavailable("no answer"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        ValueError("'zz' is no MAC"),
        RecursionError("maximum recursion depth exceeded"),
        MemoryError(),
        KeyError("bgp"),
        TypeError("unhashable type: 'list'"),
        AssertionError(),
        ExceptionGroup(
            "unhandled errors in a TaskGroup", [ExceptionGroup("inner", [OverflowError("too large")])]
        ),
        asyncio.CancelledError("by a library"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_a_part_raises_it_is_run_again(error: BaseException) -> None:
    parts, failing = Parts(Log()), Failing(error, error)
    task = asyncio.create_task(parts.keep("node", failing.run))
    async with asyncio.timeout(PATIENCE_SECONDS):
        await failing.well.wait()
    assert failing.runs == 3
    (trouble,) = parts.troubles()
    assert (trouble.kind, trouble.about) == (TroubleKind.PART, "part node")
    assert trouble.evidence.startswith("failed 2 times: ")
    assert parts.failures == {"node": 2}
    assert not task.done()
    await settled(task)


async def test_the_others_go_on_and_a_stop_is_a_stop() -> None:
    parts, failing, other = Parts(Log()), Failing(*[ValueError("x")] * 5), Failing()
    tasks = [asyncio.create_task(parts.keep(name, one.run)) for name, one in (("a", failing), ("b", other))]
    async with asyncio.timeout(PATIENCE_SECONDS):
        await failing.well.wait()
    assert other.runs == 1
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one) for one in results] == [asyncio.CancelledError] * 2


async def test_a_mistake_has_its_traceback_in_the_log_and_what_the_world_does_has_none() -> None:
    log = Log()
    parts, outside = (
        Parts(log),
        Failing(*[OSError(errno.ENOBUFS, "No buffer space available")] * 3, KeyError("spec")),
    )
    task = asyncio.create_task(parts.keep("kernel", outside.run))
    over = asyncio.get_running_loop().create_future()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await outside.well.wait()
        asyncio.get_running_loop().call_later(0.1, over.set_result, None)
        await over
    assert [(event, "exc_info" in fields) for event, fields in log.events] == [("part.failed", True)]
    assert list(parts.troubles()) == []
    assert parts.failures == {"kernel": 4}
    await settled(task)


async def test_waits_double_up_to_a_bound_and_begin_anew_when_it_is_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = Parts(Log())
    monkeypatch.setattr(module, "FIRST_WAIT_SECONDS", 0.5)
    waits = [parts._failed("a", ValueError()) for _ in range(40)]
    assert waits[:4] == [0.5, 1.0, 2.0, 4.0]
    assert max(waits) == module.LONGEST_WAIT_SECONDS
    with parts.outlived("a"):
        pass
    assert parts._failed("a", ValueError()) == 0.5


async def test_what_is_outlived_goes_on_and_is_a_trouble_until_it_succeeds() -> None:
    parts = Parts(Log())
    for _ in range(2):
        with parts.outlived("peering"):
            raise ValueError("AS 0")
    assert [str(one) for one in parts.troubles()] == [
        "part peering: failed 2 times: ValueError: AS 0; its work stands still between two runs"
    ]
    with parts.outlived("peering"):
        pass
    assert list(parts.troubles()) == []


async def test_a_start_waits_for_its_result() -> None:
    answers: list[Exception | str] = [KernelError("interrupted"), KernelError("interrupted"), "routes"]

    async def read() -> str:
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    parts = Parts(Log())
    assert await parts.keep("start", read) == "routes"
    assert list(parts.troubles()) == []


async def test_a_connection_that_cannot_be_accepted_is_a_trouble_of_the_listeners() -> None:
    log = Log()
    parts, loop = Parts(log), asyncio.get_running_loop()
    for _ in range(100):  # asyncio tries as often as the backlog is long
        parts.callback_failed(
            loop,
            {"message": "socket.accept() out of system resource", "exception": OSError(errno.EMFILE, "x")},
        )
    parts.callback_failed(loop, {"message": "Exception in callback", "exception": KeyError("x")})
    parts.callback_failed(loop, {"message": "Task was destroyed but it is pending!"})
    assert [one.about for one in parts.troubles()] == [f"part {LISTENERS}", "part callbacks"]
    assert [fields["part"] for _, fields in log.events] == ["callbacks", "callbacks"]
