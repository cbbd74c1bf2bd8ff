"""Each example of a command that needs nothing but a datastore is run as the help shows it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.clock import SystemClock
from agent.datastore.resources.documents import read
from agent.datastore.writing.resource_writer import ResourceWriter, WriteMode
from ipam.etcd.client import EtcdStore
from ipam.etcd.etcd_config import EtcdConfig
from ipam.etcd.store import Delete
from tests.fixtures.etcd import Etcd, start_etcd
from tests.scenes.cli.cli_examples import Place, at
from tests.scenes.cli.cli_runs import run_line


def document(kind: str, name: str, labels: dict[str, str] | None = None, **spec: Any) -> str:
    """A resource as text."""
    metadata = {"name": name, "labels": labels or {}}
    return json.dumps(
        {"kind": kind, "apiVersion": "projectcalico.org/v3", "metadata": metadata, "spec": spec}
    )


POOL = document("IPPool", "default-ipv4-ippool", cidr="192.168.0.0/16", vxlanMode="Always")
OTHER = document("IPPool", "other", cidr="10.65.0.0/16")
NODE = document("Node", "node1", {"rack": "r1"}, bgp={"ipv4Address": "172.26.0.11/20"})
TOR = document(
    "BGPPeer",
    "tor",
    peerIP="172.26.0.1",
    asNumber=65001,
    password={"secretKeyRef": {"name": "a", "key": "b"}},
)
STORED = "\n---\n".join((POOL, NODE, TOR))
FILES = {
    "pool.json": POOL,
    "pool.yaml": OTHER,
    "node.yaml": NODE,
    "pools/one.yaml": POOL,
    "pools/two.json": OTHER,
    "new.toml": '[etcd]\nendpoints = ["http://127.0.0.1:2379"]\n',
}


@pytest.fixture(scope="module")
def server() -> Iterator[Etcd]:
    with start_etcd() as running:
        yield running


async def store_anew(server: Etcd) -> None:
    """Exactly STORED."""
    store = EtcdStore(EtcdConfig((server.endpoint,)))
    await store.commit((), [Delete(key) for key in (await store.list("/calico/")).values])
    for found in read(STORED, "stored"):
        await ResourceWriter(store, SystemClock()).write(found, WriteMode.CREATE)
    await store.close()


@pytest.mark.parametrize("line", at(Place.DATASTORE))
def test_the_example_does_what_it_shows(
    line: str, server: Etcd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(store_anew(server))
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    code, out, err = run_line(line, "--etcd-endpoints", server.endpoint)
    assert (code, err) == (0, "")
    assert out.strip()


ASK_THE_AGENT = (
    "tortie bgp",
    "tortie drain",
    "tortie node addresses",
    "tortie node status",
    "tortie undrain",
)


@pytest.mark.parametrize("line", [line for line in at(Place.NODE) if line.startswith(ASK_THE_AGENT)])
def test_without_an_agent_the_example_is_one_sentence_and_exit_code_1(line: str, tmp_path: Path) -> None:
    settings = tmp_path / "agent.toml"
    settings.write_text(f"[paths]\nrun = {str(tmp_path)!r}\n")
    code, out, err = run_line(line, "--config", str(settings))
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"tortie: no agent answers at {tmp_path}/agent.sock")
