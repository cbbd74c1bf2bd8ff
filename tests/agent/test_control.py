"""The control socket answers questions, and only root's."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest

from agent import control


def half(text: str) -> float:
    return int(text) / 2


async def asked(path: Path, *questions: str) -> list[object]:
    ready = asyncio.Event()
    answers: control.Answers = {"status": lambda: {"node": "n"}, "half": control.WithText(half)}
    server = asyncio.create_task(control.serve(path, answers, ready.set))
    try:
        await ready.wait()
        return [await asyncio.to_thread(control.ask, path, question) for question in questions]
    finally:
        server.cancel()
        await asyncio.gather(server, return_exceptions=True)


async def test_a_question_gets_its_answer_and_an_unknown_one_the_known_ones(tmp_path: Path) -> None:
    assert await asked(tmp_path / "s", "status", "fly") == [
        {"node": "n"},
        {"error": "unknown question 'fly'; known are status, half"},
    ]


async def test_a_text_goes_with_the_words_that_take_one(tmp_path: Path) -> None:
    assert await asked(tmp_path / "s", "half 3", "half x", "status now") == [
        1.5,
        {"error": "invalid literal for int() with base 10: 'x'"},
        {"error": "unknown question 'status now'; known are status, half"},
    ]


async def test_the_socket_is_roots_only_from_its_first_moment(tmp_path: Path) -> None:
    path, ready = tmp_path / "s", asyncio.Event()
    server = asyncio.create_task(control.serve(path, {}, ready.set))
    await ready.wait()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    server.cancel()
    await asyncio.gather(server, return_exceptions=True)


async def test_sockets_made_side_by_side_leave_the_umask_as_it_was(tmp_path: Path) -> None:
    before = os.umask(0o022)
    paths = [tmp_path / f"{number}.sock" for number in range(3)]
    ready = [asyncio.Event() for _ in paths]
    servers = [
        asyncio.create_task(control.serve(path, {}, event.set))
        for path, event in zip(paths, ready, strict=True)
    ]
    try:
        for event in ready:
            await event.wait()
        assert [stat.S_IMODE(path.stat().st_mode) for path in paths] == [0o600] * 3
        assert os.umask(before) == 0o022
    finally:
        os.umask(before)
        for server in servers:
            server.cancel()
        await asyncio.gather(*servers, return_exceptions=True)


async def test_a_left_over_socket_of_a_killed_agent_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("")
    assert await asked(path, "status") == [{"node": "n"}]
    assert await asked(path, "status") == [{"node": "n"}]


def test_without_an_agent_the_sentence_names_the_socket(tmp_path: Path) -> None:
    with pytest.raises(control.NotRunning, match=f"no agent answers at {tmp_path}/none"):
        control.ask(tmp_path / "none", "status")


async def test_whatever_goes_wrong_with_a_question_is_its_answer_and_the_next_one_is_served(
    tmp_path: Path,
) -> None:
    def broken() -> object:
        raise ZeroDivisionError("of the test")

    def deep() -> object:
        found: list[object] = []
        for _ in range(100_000):
            found = [found]
        return found

    answers: control.Answers = {
        "broken": broken,
        "half": lambda: {"of a pair": "\ud800"},
        "deep": deep,
        "status": lambda: "fine",
    }
    ready = asyncio.Event()
    server = asyncio.create_task(control.serve(tmp_path / "s", answers, ready.set))
    await ready.wait()
    found = {}
    for word in (
        *answers,
        "x" * 5000,
        "",
        "\ud800\udfff".encode(errors="surrogatepass").decode(errors="replace"),
    ):
        try:
            found[word] = await asyncio.to_thread(control.ask, tmp_path / "s", word)
        except control.NotRunning as error:
            found[word] = str(error)
    server.cancel()
    await asyncio.gather(server, return_exceptions=True)
    assert found["broken"] == {"error": "a fault of tortie's: ZeroDivisionError: of the test"}
    assert found["half"] == {"of a pair": "?"}
    assert found["deep"]["error"].startswith("a fault of tortie's: RecursionError")
    assert "more than 4096 bytes" in found["x" * 5000]["error"]
    assert found["status"] == "fine"
    assert "unknown question ''" in found[""]["error"]


async def test_an_answer_that_does_not_come_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "ANSWER_SECONDS", 0.05)
    assert await control._answer({"never": asyncio.Event().wait}, "never") == {
        "error": "no answer within 0.05 s"
    }
