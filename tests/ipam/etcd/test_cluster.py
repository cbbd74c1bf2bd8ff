"""What a node's facts see of a datastore that loses members, certificates, its memory: nothing that is not so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
import structlog

from agent.clock import SystemClock
from agent.datastore.state_cache import StateCache
from agent.datastore.syncer import Syncer
from ipam.etcd.client import EtcdStore
from ipam.etcd.etcd_config import EtcdConfig
from ipam.etcd.store import Committed, Put, Store, Unchanged
from ipam.failures import StoreError, WentBack
from ipam.keys import resource_key
from ipam.model import NodeName
from tests.fixtures.certificates import Authority
from tests.fixtures.etcd import start_etcd
from tests.fixtures.etcd_cluster import Member, start_cluster

ME = NodeName("node-1")
WAIT_SECONDS = 20


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[Authority, list[Member]]]:
    with start_cluster() as running:
        yield running


def settings(authority: Authority, members: list[Member], client: str) -> EtcdConfig:
    authority.issue(client)
    files = (authority.file(name) for name in ("ca.pem", f"{client}.pem", f"{client}.key"))
    return EtcdConfig(tuple(member.endpoint for member in members), *files, call_seconds=1.0)


async def register(store: Store, name: str) -> None:
    """One more node; asked again until it is there."""
    document = {"kind": "Node", "apiVersion": "projectcalico.org/v3", "metadata": {"name": name}}
    value = json.dumps({**document, "spec": {"bgp": {"ipv4Address": "10.0.0.1/24"}}}).encode()
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            try:
                outcome = await store.commit((), (Put(resource_key("nodes", name), value),))
            except StoreError:
                continue
            assert isinstance(outcome, Committed)
            return


class Watched:
    """A node's facts, with every state of the nodes that was ever seen."""

    def __init__(self, store: EtcdStore) -> None:
        self.cluster = StateCache(ME)
        self.states: list[tuple[bool, frozenset[str]]] = []
        self._bell = asyncio.Event()
        self.syncer = Syncer(store, self.cluster, self._changed, hold_seconds=0.1)

    def _changed(self) -> None:
        self.states.append((self.syncer.in_sync, frozenset(self.cluster.nodes)))
        self._bell.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while not condition():
                await self._bell.wait()
                self._bell.clear()

    async def until_known(self, *names: str) -> None:
        await self.until(lambda: self.syncer.in_sync and set(names) <= self.cluster.nodes.keys())

    @property
    def lost(self) -> list[frozenset[str]]:
        """Nodes that were known and then not, state by state."""
        names = [found for _, found in self.states]
        return [before - after for before, after in pairwise(names) if before - after]


@asynccontextmanager
async def following(store: EtcdStore) -> AsyncIterator[Watched]:
    watched = Watched(store)
    task = asyncio.create_task(watched.syncer.run())
    try:
        await watched.until(lambda: watched.syncer.in_sync)
        yield watched
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await store.close()


async def test_members_die_one_by_one_and_no_fact_is_lost(cluster: tuple[Authority, list[Member]]) -> None:
    authority, members = cluster
    writer = EtcdStore(settings(authority, members, "writer"))
    await register(writer, "start")
    async with following(EtcdStore(settings(authority, members, "follower"))) as watched:
        await watched.until_known("start")
        for number, member in enumerate(members):
            member.kill()
            await register(writer, f"without-{number}")
            await watched.until_known(f"without-{number}")
            member.start()
            await asyncio.to_thread(member.until_healthy)
        assert watched.lost == []
        assert watched.syncer.went_back == 0
    await writer.close()


async def test_a_read_that_one_member_leaves_without_an_answer_is_answered_by_another(
    cluster: tuple[Authority, list[Member]],
) -> None:
    authority, members = cluster
    store = EtcdStore(replace(settings(authority, members, "hedged"), call_seconds=5.0))
    for _ in members:
        await store.get("/a")
        (used,) = (member for member in members if member.endpoint == store.channels.endpoint)
        used.freeze()
        try:
            await store.get("/a")
        finally:
            used.thaw()
        assert store.channels.endpoint != used.endpoint
    await store.close()


async def test_a_guarded_change_that_one_member_leaves_without_an_answer_is_made_once_by_another(
    cluster: tuple[Authority, list[Member]],
) -> None:
    authority, members = cluster
    store = EtcdStore(replace(settings(authority, members, "guarded"), call_seconds=5.0))
    revision = 0
    for number in range(len(members)):
        await store.get("/guarded")
        (used,) = (member for member in members if member.endpoint == store.channels.endpoint)
        used.freeze()
        try:
            change = Put("/guarded", str(number).encode())
            outcome = await store.commit((Unchanged("/guarded", revision),), (change,))
        finally:
            used.thaw()
        assert isinstance(outcome, Committed)
        await asyncio.to_thread(used.until_healthy)  # it has carried out by now what it was asked
        found = await store.get("/guarded")
        assert found is not None
        assert (found.value, found.revision) == (str(number).encode(), outcome.revision)
        revision = found.revision
    await store.close()


async def test_each_member_must_bear_its_own_name_in_its_certificate(
    cluster: tuple[Authority, list[Member]],
) -> None:
    authority, members = cluster
    config = settings(authority, members[:1], "named")
    wrong = EtcdConfig(
        (f"https://127.0.0.1:{members[0].endpoint.rpartition(':')[2]}",),
        config.ca_file,
        config.cert_file,
        config.key_file,
        call_seconds=0.5,
    )
    for one, answers in ((config, True), (wrong, False)):
        store = EtcdStore(one)
        try:
            await store.get("/a")
            assert answers
        except StoreError:
            assert not answers
        await store.close()


async def test_a_certificate_expires_is_replaced_and_nothing_starts_again(
    cluster: tuple[Authority, list[Member]],
) -> None:
    authority, members = cluster
    writer = EtcdStore(settings(authority, members, "steady"))
    store = EtcdStore(settings(authority, members, "rotated"))
    file = authority.file("rotated.pem")
    async with following(store) as watched:
        authority.issue("rotated", days=0)
        with pytest.raises(StoreError):  # the call closes the connections that the former certificate made
            await store.get("/a")
        (warning,) = store.channels.warnings(SystemClock().wall())
        assert f"{file} has expired at 2" in warning
        assert watched.syncer.in_sync
        authority.issue("rotated", days=3)
        await register(writer, "after-rotation")
        await watched.until_known("after-rotation")
        left = store.channels.expiries[file] - SystemClock().wall()
        assert timedelta(days=2) < left <= timedelta(days=3)
        assert (watched.lost, store.channels.rotations) == ([], 2)
    await writer.close()


async def test_half_written_certificates_are_not_taken(cluster: tuple[Authority, list[Member]]) -> None:
    authority, members = cluster
    store = EtcdStore(settings(authority, members, "half"))
    await store.get("/a")
    Path(authority.file("half.pem")).write_text("-----BEGIN CERTIFICATE-----\n")
    await store.get("/a")
    assert "half.pem" in (store.channels.trouble or "")
    assert "the former files stay in use" in (store.channels.trouble or "")
    authority.issue("half")
    await store.get("/a")
    assert store.channels.trouble is None
    await store.close()


async def test_a_restored_backup_is_read_again_deletes_only_when_complete_and_warns() -> None:
    with start_etcd() as server:
        config = EtcdConfig((server.endpoint,))
        writer = EtcdStore(config)
        await register(writer, "old")
        copy = await asyncio.to_thread(server.backup)
        with structlog.testing.capture_logs() as said:
            async with following(EtcdStore(config)) as watched:
                for number in range(5):
                    await register(writer, f"forgotten-{number}")
                    await watched.until_known(f"forgotten-{number}")
                await asyncio.to_thread(server.restore, copy)
                await watched.until(lambda: set(watched.cluster.nodes) == {"old"})
                await watched.until(lambda: watched.syncer.in_sync)
                assert watched.syncer.went_back >= 1
        assert "datastore.went_back" in {line["event"] for line in said}
        assert len(watched.lost) == 1  # all at once, from one whole list
        await writer.close()


async def test_another_cluster_between_a_list_and_its_watch_is_noticed() -> None:
    with start_etcd() as server:
        config = EtcdConfig((server.endpoint,))
        store, writer = EtcdStore(config), EtcdStore(config)
        await register(writer, "old")
        listing = await store.list("/calico/")
        await asyncio.to_thread(server.replace)
        for number in range(10):
            await register(writer, f"new-{number}")
        with pytest.raises(WentBack, match="another cluster"):
            await anext(aiter(store.watch("/calico/", listing.revision + 1)))
        await store.close()
        await writer.close()


async def test_another_cluster_with_higher_revisions_is_noticed_too() -> None:
    with start_etcd() as server:
        config = EtcdConfig((server.endpoint,))
        writer = EtcdStore(config)
        await register(writer, "old")
        async with following(EtcdStore(config)) as watched:
            await watched.until_known("old")
            await asyncio.to_thread(server.replace)
            for number in range(10):
                await register(writer, f"new-{number}")
            await watched.until(lambda: set(watched.cluster.nodes) == {f"new-{n}" for n in range(10)})
            assert watched.syncer.went_back >= 1
        await writer.close()
