"""Whoever connects and does what it likes costs a bounded time, and no descriptor afterwards; others are served."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from agent.unix_server import Bounds, UnixServer

BOUNDS = Bounds(
    question_bytes=1000, questions_bytes=3000, connections=5, read_seconds=0.3, write_seconds=0.3, line=True
)
PATIENT = replace(BOUNDS, read_seconds=60.0, write_seconds=60.0)
LONG = b"x" * (4 << 20)
CLOSING_PASSES = 3
"""Of the event loop, in which a transport closes what it has left."""


async def answer(question: bytes) -> bytes:
    if question == b"long\n":
        return LONG
    if question == b"fault\n":
        raise ZeroDivisionError("of the test")
    return b"answer to " + question


@dataclass
class Serving:
    """A server at work, and how many descriptors there were before anybody came."""

    path: Path
    task: asyncio.Task[None]
    descriptors: int
    connections: list[socket.socket] = field(default_factory=list)

    async def asked(self, question: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        writer.write(question)
        try:
            return await reader.read()
        except ConnectionResetError:
            return b"reset"
        finally:
            writer.close()

    def connect(self) -> socket.socket:
        """A connection that nobody in this process reads or writes by itself."""
        made = socket.socket(socket.AF_UNIX)
        made.connect(str(self.path))
        made.setblocking(False)
        self.connections.append(made)
        return made

    async def settled(self) -> None:
        """Every connection has ended, and its descriptor is closed."""
        others = (self.task, asyncio.current_task())
        while tasks := [task for task in asyncio.all_tasks() if task not in others]:
            await asyncio.wait(tasks)
        for _ in range(CLOSING_PASSES):
            await asyncio.sleep(0)

    async def must_be_as_before(self) -> None:
        """The next one is served, and no descriptor is left."""
        for connection in self.connections:
            connection.close()
        await self.settled()
        assert await self.asked(b"x\n") == b"answer to x\n"
        await self.settled()
        assert descriptors() <= self.descriptors  # less, where another test's had not been closed yet


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@asynccontextmanager
async def serving_at(path: Path, bounds: Bounds) -> AsyncIterator[Serving]:
    ready = asyncio.Event()
    task = asyncio.create_task(UnixServer(path, bounds, answer, str.encode).run(ready.set))
    await ready.wait()
    made = Serving(path, task, descriptors())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for connection in made.connections:
            connection.close()


@pytest.fixture
async def serving(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving_at(tmp_path / "s", BOUNDS) as made:
        yield made


@pytest.fixture
async def patient(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving_at(tmp_path / "s", PATIENT) as made:
        yield made


async def end_of(connection: socket.socket) -> bytes:
    """What is left to read until the other end is closed."""
    loop, found = asyncio.get_running_loop(), b""
    with suppress(ConnectionResetError):
        while part := await loop.sock_recv(connection, 1 << 16):
            found += part
    return found


async def test_questions_side_by_side_get_their_answers_and_leave_no_descriptor(serving: Serving) -> None:
    answers = await asyncio.gather(*(serving.asked(b"%d\n" % number) for number in range(5)))
    assert answers == [b"answer to %d\n" % number for number in range(5)]
    assert await serving.asked(b"long\n") == LONG
    await serving.must_be_as_before()


async def test_who_sends_nothing_or_half_is_closed_in_time(serving: Serving) -> None:
    silent, half = serving.connect(), serving.connect()
    half.send(b"hal")
    assert await end_of(silent) == await end_of(half) == b""
    await serving.must_be_as_before()


async def test_one_too_many_is_refused_at_once_and_served_when_others_are_gone(patient: Serving) -> None:
    for _ in range(PATIENT.connections):
        patient.connect()
    assert await patient.asked(b"x\n") == b"5 calls are under way already"
    await patient.must_be_as_before()


async def test_a_question_that_is_too_large_is_refused_and_so_are_many_large_ones(patient: Serving) -> None:
    assert await patient.asked(b"x" * 1001) == b"a question of more than 1000 bytes"
    for _ in range(3):
        patient.connect().send(b"x" * 999)
    assert await patient.asked(b"x" * 500) == b"questions of more than 3000 bytes at once"
    await patient.must_be_as_before()


async def test_who_does_not_read_the_answer_is_closed_in_time(serving: Serving) -> None:
    deaf = [serving.connect() for _ in range(BOUNDS.connections)]
    for connection in deaf:
        connection.send(b"long\n")
    assert await serving.asked(b"x\n") == b"5 calls are under way already"
    await serving.settled()
    assert all([len(await end_of(connection)) < len(LONG) for connection in deaf])
    await serving.must_be_as_before()


async def test_a_failure_of_one_answer_closes_that_connection_alone(serving: Serving) -> None:
    assert await serving.asked(b"fault\n") in (b"", b"reset")
    await serving.must_be_as_before()


async def test_a_thousand_that_connect_and_leave_cost_nothing(serving: Serving) -> None:
    for number in range(1000):
        connection = serving.connect()
        connection.send(b"x\n"[: number % 3])
        connection.close()
        if number % 50 == 0:
            await asyncio.sleep(0)
    await serving.must_be_as_before()


async def test_stopping_does_not_wait_for_who_is_silent_or_does_not_read(patient: Serving) -> None:
    silent, deaf = patient.connect(), patient.connect()
    deaf.send(b"long\n")
    assert await patient.asked(b"x\n") == b"answer to x\n"
    patient.task.cancel()
    async with asyncio.timeout(5):
        await asyncio.gather(patient.task, return_exceptions=True)
    assert await end_of(silent) == b""
    assert len(await end_of(deaf)) < len(LONG)
