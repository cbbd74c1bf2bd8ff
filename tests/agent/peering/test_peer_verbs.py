"""Refresh, reset, disable and enable, as the control socket takes them, on running speakers."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agent import control
from agent.netlink.objects import RouteKey
from agent.peering.disabled_peers import FILE_NAME, MOST_DISABLED, Disabled, DisabledPeers
from tests.scenes.bgp.controllers import BgpNode, BgpNodes, bgp_nodes
from tests.scenes.cli.cli_runs import run_line

LONG = json.dumps({"10.0.0.2": {"since": "2026-01-02T00:00:00Z", "text": "x" * 256}})
PEER, WHEN = IPv4Address("10.0.0.2"), datetime(2026, 1, 2, tzinfo=UTC)


def verb(node: BgpNode, name: str, text: str) -> dict[str, str]:
    answer = node.bgp.peer_verbs.answers[f"peer-{name}"](text)
    assert isinstance(answer, dict)
    return answer


async def test_a_disabled_peer_is_shown_as_such_and_stays_disabled_when_the_agent_is_new(
    tmp_path: Path,
) -> None:
    async with bgp_nodes(2, tmp_path) as world:
        one, two = world.nodes
        await world.until(lambda: len(one.sessions()) == len(two.sessions()) == 1)
        answer = verb(one, "disable", json.dumps({"peer": "n2", "text": "loops"}))
        assert answer["done"] == f"n2 ({two.address}) is disabled until: tortie bgp enable n2"
        await world.until(lambda: RouteKey(one.block) not in two.bgp.learned and not one.sessions())
        shown = one.peer(two)
        assert (shown["disabled"], shown["last_error"]) == (True, "it is disabled here: loops")
        assert two.peer(one)["last_error"].endswith("administrative shutdown (6/2): loops")
        (trouble,) = one.bgp.session_troubles()
        assert str(trouble) == (
            f"BGP peer n2 ({two.address}): it is disabled here: loops; it has no session, and its routes are gone; "
            f"tortie bgp enable {two.address}"
        )
        again = BgpNode(1, tmp_path)
        again.state = one.state
        again.reconcile()
        assert again.peer(two)["disabled"] is True
        await again.bgp.close()
        assert verb(one, "enable", "n2")["done"] == f"n2 ({two.address}) is enabled"
        await world.until(lambda: RouteKey(one.block) in two.bgp.learned)
        assert list(one.bgp.session_troubles()) == []


async def test_a_refresh_keeps_the_session_and_a_reset_begins_a_new_one(tmp_path: Path) -> None:
    async with bgp_nodes(2, tmp_path) as world:
        one, two = world.nodes
        await world.until(lambda: RouteKey(one.block) in two.bgp.learned and bool(one.sessions()))
        before = one.sessions()
        assert "everything again" in verb(one, "refresh", two.address)["done"]
        assert dict(one.peer(two)["messages_sent"])["ROUTE_REFRESH"] == 1
        assert one.sessions() == before
        assert "keeps the paths" in verb(one, "reset", json.dumps({"peer": "n2"}))["done"]
        await world.until(lambda: one.peer(two).get("sessions") == 2 and bool(one.sessions()))
        assert RouteKey(one.block) in two.bgp.learned
        assert "forget" in verb(one, "reset", json.dumps({"peer": "n2", "hard": True}))["done"]
        await world.until(
            lambda: one.peer(two).get("sessions") == 3 and RouteKey(one.block) in two.bgp.learned
        )


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("refresh", "n3", "n3 is not a peer; peers are n2"),
        ("enable", "n2", r"127\..* is not disabled"),
        ("enable", "", "is not a peer; peers are n2"),
        ("reset", "n2", "the question cannot be read"),
        ("reset", '{"peer": "n2", "soft": true}', "the question cannot be read"),
        ("disable", json.dumps({"peer": "n2", "text": "é" * 128}), "at most 255 bytes"),
    ],
)
async def test_a_wrong_word_is_one_sentence_and_changes_nothing(
    name: str, text: str, why: str, tmp_path: Path
) -> None:
    async with bgp_nodes(2, tmp_path) as world:
        one, two = world.nodes
        with pytest.raises(ValueError, match=why):
            verb(one, name, text)
        assert one.peer(two)["disabled"] is False
        assert not list(tmp_path.rglob(FILE_NAME))


def test_what_is_disabled_outlives_its_reader(tmp_path: Path) -> None:
    disabled = DisabledPeers(tmp_path)
    disabled.disable(PEER, Disabled(WHEN, "ß"))
    assert DisabledPeers(tmp_path).peers == {PEER: Disabled(WHEN, "ß")}
    disabled.enable(PEER)
    assert DisabledPeers(tmp_path).peers == {}


@pytest.mark.parametrize(
    "junk", ["", "[]", '{"nobody": {"since": "2026-01-02T00:00:00Z"}}', "[" * 100_000, LONG]
)
def test_a_file_that_cannot_be_read_disables_nobody_and_says_so(junk: str, tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text(junk)
    disabled = DisabledPeers(tmp_path)
    assert (disabled.peers, bool(disabled.unreadable)) == ({}, True)
    assert (tmp_path / FILE_NAME).read_text() == junk
    disabled.disable(PEER, Disabled(WHEN))
    assert (disabled.unreadable, DisabledPeers(tmp_path).unreadable) == ("", "")


def test_how_many_can_be_disabled_is_bounded(tmp_path: Path) -> None:
    disabled = DisabledPeers(tmp_path)
    disabled.peers = {PEER + number: Disabled(WHEN) for number in range(MOST_DISABLED)}
    with pytest.raises(ValueError, match="tortie drain leaves all of them"):
        disabled.disable(PEER + MOST_DISABLED, Disabled(WHEN))


async def test_the_command_line_says_what_was_done_as_text_and_as_json(tmp_path: Path) -> None:
    settings = tmp_path / "agent.toml"
    settings.write_text(f"[paths]\nrun = {str(tmp_path)!r}\n")
    with capture_logs():  # or the lines of the log would be among the output
        async with bgp_nodes(2, tmp_path) as world:
            await _say_all(world, tmp_path, settings)


async def _say_all(world: BgpNodes, tmp_path: Path, settings: Path) -> None:
    one, two = world.nodes
    await world.until(lambda: bool(one.sessions()))
    answers: control.Answers = {
        word: control.WithText(answer) for word, answer in one.bgp.peer_verbs.answers.items()
    }
    listening = asyncio.Event()
    serving = asyncio.create_task(control.serve(tmp_path / "agent.sock", answers, listening.set))
    await listening.wait()

    async def run(line: str) -> tuple[int, str, str]:
        return await asyncio.to_thread(run_line, line, "--config", str(settings))

    named = f"n2 ({two.address})"
    try:
        code, out, _ = await run('tortie bgp disable n2 --text "a loop"')
        assert (code, out) == (0, f"{named} is disabled until: tortie bgp enable n2\n")
        assert await run("tortie bgp reset n2 --hard") == (
            1,
            "",
            f"tortie: {two.address} is disabled here; enable it instead\n",
        )
        code, out, _ = await run(f"tortie bgp enable {two.address} -o json")
        assert (code, json.loads(out)["done"]) == (0, f"{named} is enabled")
        assert (await run("tortie bgp refresh n9"))[2] == "tortie: n9 is not a peer; peers are n2\n"
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
