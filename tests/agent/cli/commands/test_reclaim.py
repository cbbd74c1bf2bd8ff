"""`tortie node reclaim` as a person runs it, against a real etcd: first a dry run, then it goes, and it comes back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipam.etcd.client import EtcdStore
from ipam.etcd.etcd_config import EtcdConfig
from ipam.keys import resource_key
from tests.fixtures.etcd import Etcd, start_etcd
from tests.scenes.cli.cli_runs import run
from tests.scenes.ipam.world import World, ask


@pytest.fixture
def server() -> Iterator[Etcd]:
    with start_etcd() as running:
        yield running


def stored(server: Etcd) -> dict[str, bytes]:
    async def work() -> dict[str, bytes]:
        store = EtcdStore(EtcdConfig((server.endpoint,)))
        found = (await store.list("/calico/")).values
        await store.close()
        return {key: one.value for key, one in found.items()}

    return asyncio.run(work())


def fill(server: Etcd) -> None:
    async def work() -> None:
        store = EtcdStore(EtcdConfig((server.endpoint,)))
        world = World(store)
        await world.pool("p", "10.0.0.0/28", 30)
        for node in ("node8", "node9"):
            document = {"kind": "Node", "apiVersion": "projectcalico.org/v3", "metadata": {"name": node}}
            await world.write(resource_key("nodes", node), json.dumps({**document, "spec": {}}).encode())
            for number in range(3):
                await world.allocator().assign(ask(f"{node}.{number}", node))
        await store.close()

    asyncio.run(work())


def test_a_dead_nodes_things_are_shown_then_go_and_come_back_by_the_undo_file(
    server: Etcd, tmp_path: Path
) -> None:
    fill(server)
    before = stored(server)
    at = ("--etcd-endpoints", server.endpoint)
    status, shown, _ = run([*at, "node", "reclaim", "node9", "--dry-run"])
    assert (status, stored(server)) == (0, before)
    assert (
        shown == "released: 3 addresses, 1 block\nreleased: its Node resource\ndry run: nothing was written\n"
    )
    file = tmp_path / "node9.json"
    status, done, error = run([*at, "node", "reclaim", "node9", "--undo-file", str(file)])
    assert (status, error) == (0, "")
    assert done == shown.replace("dry run: nothing was written", f"undo: tortie node reclaim --undo {file}")
    assert [key for key in stored(server) if "node9" in key] == []
    assert [key for key in stored(server) if "node8" in key] == [key for key in before if "node8" in key]
    status, _, error = run([*at, "node", "reclaim", "node9", "--undo-file", str(file)])
    assert (status, "is there already" in error) == (1, True)
    status, undone, _ = run([*at, "node", "reclaim", "--undo", str(file)])
    assert (status, stored(server)) == (0, before)
    assert undone.endswith("keys are put back\n")


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"format": "tortie-undo-1", "keys": [{"key": "/other"}]}']
)
def test_what_is_no_undo_file_is_refused(server: Etcd, tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    status, _, error = run(
        ["--etcd-endpoints", server.endpoint, "node", "reclaim", "--undo", str(tmp_path / "x.json")]
    )
    assert (status, "no undo file" in error) == (1, True)


def test_of_a_node_that_is_not_there_there_is_nothing(server: Etcd, tmp_path: Path) -> None:
    at = ("--etcd-endpoints", server.endpoint)
    file = tmp_path / "x.json"
    status, _, error = run([*at, "node", "reclaim", "none", "--undo-file", str(file)])
    assert (status, error) == (1, "tortie: there is nothing of a node none\n")
    assert not file.exists()
