"""The API server as it is asked, by HTTP over a socket: whatever it does is an answer or an ApiError, and a trouble."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.kubernetes import api as module
from agent.kubernetes.api import NODES, KubernetesApi, node_path
from agent.kubernetes.api_errors import ApiAway, ApiError, ApiRefused, BadAnswer
from agent.kubernetes.api_server import ApiServer
from tests.fakes.api_server import ApiFault, FakeApiServer
from tests.fakes.clock import SetClock

AWAY = set(ApiFault) - {ApiFault.FORBIDDEN}


@pytest.fixture
async def server() -> AsyncIterator[FakeApiServer]:
    made = FakeApiServer()
    for number in range(8):
        made.node(f"n{number}", uid=f"u{number}", labels={"rack": str(number)})
    async with made.serving():
        yield made


def asking(server: FakeApiServer, token: Path | bytes = b"") -> KubernetesApi:
    return KubernetesApi(lambda: server.address(token), SetClock())


async def test_an_objects_metadata_is_read_and_what_is_not_there_is_none(server: FakeApiServer) -> None:
    api = asking(server)
    found = await api.get(node_path("n3"), "node")
    assert found is not None
    assert (found.metadata.uid, found.metadata.labels) == ("u3", {"rack": "3"})
    assert await api.get(node_path("n9"), "node") is None
    assert list(api.troubles()) == []


async def test_a_list_is_read_to_its_last_page(server: FakeApiServer) -> None:
    assert await asking(server).names(NODES, "nodes") == {f"n{number}" for number in range(8)}
    assert len(server.asked) == 3


@pytest.mark.parametrize("fault", sorted(AWAY, key=str), ids=lambda fault: fault.name)
async def test_whatever_it_answers_is_an_error_and_a_trouble_until_it_answers_well(
    server: FakeApiServer, fault: ApiFault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.3 if fault is ApiFault.HANGS else 10.0)
    api = asking(server)
    server.faults.add(fault)
    with pytest.raises((ApiAway, BadAnswer)):
        await api.names(NODES, "nodes")
    (trouble,) = api.troubles()
    assert trouble.kind.value == "kubernetes"
    assert str(trouble).isprintable()
    server.faults.clear()
    assert len(await api.names(NODES, "nodes")) == 8
    assert list(api.troubles()) == []


async def test_a_server_that_is_not_there_is_away(server: FakeApiServer) -> None:
    closed = ApiServer("127.0.0.1", 1, tls=False)
    api = KubernetesApi(lambda: closed, SetClock())
    with pytest.raises(ApiAway):
        await api.get(node_path("n1"), "node")
    assert "port 1: Connection refused" in str(next(api.troubles()))


async def test_what_the_account_may_not_do_is_a_trouble_of_that_question_alone(server: FakeApiServer) -> None:
    api = asking(server)
    server.faults.add(ApiFault.FORBIDDEN)
    with pytest.raises(ApiRefused) as refused:
        await api.names(NODES, "nodes")
    assert refused.value.status == 403
    (trouble,) = api.troubles()
    assert trouble.about == "list nodes"
    server.faults.clear()
    await api.get(node_path("n1"), "node")
    assert [one.about for one in api.troubles()] == ["list nodes"]
    await api.names(NODES, "nodes")
    assert list(api.troubles()) == []


async def test_a_rotated_token_is_used_with_the_next_question(server: FakeApiServer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    api, server.token = asking(server, token), "first"
    assert await api.get(node_path("n1"), "node") is not None
    server.token = "second"
    with pytest.raises(ApiAway, match="401"):
        await api.get(node_path("n1"), "node")
    token.write_text("second")
    assert await api.get(node_path("n1"), "node") is not None
    assert "first" not in "".join(map(str, api.troubles()))


async def test_a_token_with_a_line_break_adds_no_header(server: FakeApiServer) -> None:
    with pytest.raises(ApiError):
        await asking(server, b"a\r\nX-Other: b").get(node_path("n1"), "node")
    assert server.asked == []


async def test_a_question_that_is_cancelled_ends(server: FakeApiServer) -> None:
    server.faults.add(ApiFault.HANGS)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await asking(server).get(node_path("n1"), "node")
