"""Resources are written whole, guarded by revisions, or not at all: on the fake store and on a real etcd."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from ipaddress import ip_network
from typing import Any

import msgspec
import pytest

from agent.clock import SystemClock
from agent.datastore import storage_layout
from agent.datastore.resources.documents import InvalidDocument, ParsedResource, read
from agent.datastore.resources.schema import merged
from agent.datastore.writing.resource_writer import (
    MOST_ATTEMPTS,
    Effect,
    Exists,
    NotFound,
    ResourceWriter,
    WriteMode,
)
from ipam.etcd.client import EtcdStore
from ipam.etcd.dry_run_store import DryRunStore
from ipam.etcd.etcd_config import EtcdConfig
from ipam.etcd.store import CommitOutcome, Delete, Operation, Put, Store, Unchanged
from ipam.failures import Conflict, Unreadable
from ipam.keys import IPAM_CONFIG, affinity_key, resource_key
from ipam.model import NodeName
from tests.fakes.store import FakeStore
from tests.fixtures.etcd import Etcd, start_etcd
from tests.scenes.datastore.resources import EXAMPLES, Example

POOL, PEER = EXAMPLES[0], EXAMPLES[2]
KINDS = pytest.mark.parametrize("example", EXAMPLES, ids=[example.kind for example in EXAMPLES])


@pytest.fixture(scope="module")
def server() -> Iterator[Etcd]:
    with start_etcd() as running:
        yield running


@pytest.fixture(params=["fake", "etcd"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    if request.param == "fake":
        yield FakeStore()
        return
    real = EtcdStore(EtcdConfig((request.getfixturevalue("server").endpoint,)))
    yield real
    await real.commit((), [Delete(key) for key in (await real.list("/calico/")).values])
    await real.close()


@pytest.fixture
def writer(store: Store) -> ResourceWriter:
    return ResourceWriter(store, SystemClock())


def found(example: Example, spec: dict[str, Any] | None = None) -> ParsedResource:
    return read(example.text(spec), "f")[0]


async def shown(writer: ResourceWriter, example: Example) -> str:
    """As `get -o yaml` prints it."""
    return msgspec.yaml.encode(
        storage_layout.to_document(await writer.get(example.kind, example.name))
    ).decode()


@KINDS
async def test_what_get_prints_can_be_applied_and_changes_nothing(
    writer: ResourceWriter, example: Example
) -> None:
    made = await writer.write(found(example), WriteMode.APPLY)
    assert made.effect is Effect.CREATED
    text = await shown(writer, example)
    (again,) = read(text, "f")
    assert (await writer.write(again, WriteMode.APPLY)).effect is Effect.UNCHANGED
    assert (await writer.write(again, WriteMode.REPLACE)).effect is Effect.UNCHANGED
    assert await shown(writer, example) == text
    document = storage_layout.to_document(made.resource) if made.resource is not None else {}
    for field, value in example.document()["spec"].items():
        assert document["spec"][field] == value


@KINDS
async def test_a_change_is_reported_field_by_field_and_keeps_uid_and_creation_time(
    writer: ResourceWriter, example: Example
) -> None:
    first = await writer.write(found(example), WriteMode.CREATE)
    dry = await ResourceWriter(DryRunStore(writer._store), SystemClock()).write(
        found(example, example.other), WriteMode.APPLY
    )
    assert dry.effect is Effect.CONFIGURED
    assert example.change in dry.changed
    assert (await writer.get(example.kind, example.name)) == first.resource
    second = await writer.write(found(example, example.other), WriteMode.REPLACE)
    assert (second.effect, second.changed) == (Effect.CONFIGURED, dry.changed)
    stored = await writer.get(example.kind, example.name)
    assert stored == second.resource
    assert first.resource is not None
    assert stored.metadata.uid == first.resource.metadata.uid
    assert stored.metadata.resource_version != first.resource.metadata.resource_version


@KINDS
async def test_create_wants_nothing_there_and_replace_something(
    writer: ResourceWriter, example: Example
) -> None:
    named = f"f: line 1: {example.kind} {example.name}: "
    with pytest.raises(NotFound, match=f"^{named}does not exist; make it with: tortie create"):
        await writer.write(found(example), WriteMode.REPLACE)
    await writer.write(found(example), WriteMode.CREATE)
    with pytest.raises(Exists, match=f"^{named}already exists; change it with: tortie apply"):
        await writer.write(found(example), WriteMode.CREATE)
    assert (await writer.delete(found(example).resource)).effect is Effect.DELETED
    with pytest.raises(NotFound, match=f"^{example.kind} {example.name} does not exist$"):
        await writer.delete(found(example).resource)


@KINDS
async def test_a_document_of_an_earlier_state_is_refused(writer: ResourceWriter, example: Example) -> None:
    await writer.write(found(example), WriteMode.CREATE)
    old = await shown(writer, example)
    await writer.write(found(example, example.other), WriteMode.APPLY)
    (stale,) = read(old, "f")
    for write in (WriteMode.REPLACE, WriteMode.APPLY):
        with pytest.raises(Conflict, match=r"metadata\.resourceVersion: has changed since it was read \("):
            await writer.write(stale, write)
    with pytest.raises(Conflict, match="get it again and repeat the change"):
        await writer.delete(stale.resource)


@KINDS
async def test_a_patch_changes_what_it_names_alone(writer: ResourceWriter, example: Example) -> None:
    await writer.write(found(example), WriteMode.CREATE)
    patch = {"spec": example.other}
    done = await writer.edit(example.kind, example.name, lambda document: merged(document, patch), "-p")
    assert done.effect is Effect.CONFIGURED
    assert example.change in done.changed
    (wanted,) = read(example.text(example.other), "f")
    assert (await writer.write(wanted, WriteMode.APPLY)).effect is Effect.UNCHANGED
    with pytest.raises(
        InvalidDocument, match=r"kind and metadata\.name: cannot be changed|is not default|is neither default"
    ):
        await writer.edit(
            example.kind,
            example.name,
            lambda document: merged(document, {"metadata": {"name": "other"}}),
            "-p",
        )


async def test_fields_of_a_newer_program_survive_every_write(store: Store, writer: ResourceWriter) -> None:
    document = POOL.document({"later": {"deep": 1}})
    document |= {"status": {"conditions": []}}
    document["metadata"] |= {"uid": "u", "managedFields": []}
    key = resource_key("ippools", "pool")
    await store.commit((), [Put(key, json.dumps(document).encode())])
    await store.commit((), [Put(IPAM_CONFIG, b'{"auto_allocate_blocks":true,"later":[1]}')])
    await writer.write(found(POOL, POOL.other), WriteMode.APPLY)
    await writer.write(found(EXAMPLES[6]), WriteMode.REPLACE)
    stored, rules = await store.get(key), await store.get(IPAM_CONFIG)
    assert stored is not None
    assert rules is not None
    raw = json.loads(stored.value)
    assert (raw["spec"]["later"], raw["status"], raw["metadata"]["managedFields"]) == (
        {"deep": 1},
        {"conditions": []},
        [],
    )
    assert (raw["spec"]["natOutgoing"], raw["metadata"]["uid"]) == (True, "u")
    assert json.loads(rules.value)["later"] == [1]


async def test_a_status_in_a_file_is_not_read(writer: ResourceWriter) -> None:
    (with_status,) = read(json.dumps(POOL.document() | {"status": {"conditions": [1]}}), "f")
    assert (await writer.write(with_status, WriteMode.CREATE)).effect is Effect.CREATED
    assert (await writer.write(found(POOL), WriteMode.APPLY)).effect is Effect.UNCHANGED


async def test_pools_of_one_dry_run_see_each_other(store: Store) -> None:
    dry = ResourceWriter(DryRunStore(store), SystemClock())
    await dry.write(found(POOL), WriteMode.APPLY)
    document = POOL.document({"cidr": "10.0.4.0/24"})
    document["metadata"]["name"] = "second"
    with pytest.raises(
        InvalidDocument, match=r"f: line 1: IPPool second: spec.cidr: 10.0.4.0/24 overlaps pool"
    ):
        await dry.write(read(json.dumps(document), "f")[0], WriteMode.APPLY)
    assert (await dry.delete(found(POOL).resource)).effect is Effect.DELETED
    assert (await dry.write(read(json.dumps(document), "f")[0], WriteMode.APPLY)).effect is Effect.CREATED
    assert (await store.list("/calico/")).values == {}


async def test_what_is_made_by_agents_is_shown_and_not_written(store: Store, writer: ResourceWriter) -> None:
    key = affinity_key(NodeName("n1"), ip_network("10.0.0.64/26"))
    await store.commit((), [Put(key, b'{"state":"pending","deleted":false}')])
    (claim,), damaged = await writer.list_kind("BlockAffinity")
    assert storage_layout.to_document(claim)["spec"] == {
        "state": "pending",
        "node": "n1",
        "cidr": "10.0.0.64/26",
        "type": "host",
        "deleted": "false",
    }
    assert (claim.metadata.name, damaged) == ("n1-10-0-0-64-26", [])
    (written,) = read(msgspec.yaml.encode(storage_layout.to_document(claim)).decode(), "f")
    with pytest.raises(InvalidDocument, match="cannot be written: claims are made and released by agents"):
        await writer.write(written, WriteMode.APPLY)
    with pytest.raises(InvalidDocument, match="cannot be deleted: claims are made"):
        await writer.delete(claim)


async def test_a_value_that_cannot_be_read_hides_no_other_and_can_be_repaired(
    store: Store, writer: ResourceWriter
) -> None:
    await writer.write(found(PEER), WriteMode.CREATE)
    bad = resource_key("bgppeers", "bad")
    await store.commit(
        (), [Put(bad, b'{"kind":"BGPPeer","metadata":{"name":"bad"},"spec":{"asNumber":"x"}}')]
    )
    peers, (sentence,) = await writer.list_kind("BGPPeer")
    assert [peer.metadata.name for peer in peers] == ["tor"]
    assert str(sentence) == f"{bad}: Expected `int | null`, got `str` - at `$.spec.asNumber`"
    with pytest.raises(Unreadable):
        await writer.get("BGPPeer", "bad")
    document = PEER.document()
    document["metadata"] = {"name": "bad"}
    repaired = read(json.dumps(document), "f")[0]
    assert (await writer.write(repaired, WriteMode.APPLY)).effect is Effect.CONFIGURED
    assert (await writer.list_kind("BGPPeer"))[1] == []
    await store.commit((), [Put(bad, b"[")])
    assert (await writer.delete_named("BGPPeer", "bad")).effect is Effect.DELETED


async def test_labels_that_eight_people_set_at_once_all_arrive(store: Store, writer: ResourceWriter) -> None:
    await writer.write(found(PEER), WriteMode.CREATE)

    async def label(number: int) -> Effect:
        patch = {"metadata": {"labels": {f"by{number}": "x"}}}
        return (await writer.edit("BGPPeer", "tor", lambda document: merged(document, patch), "-p")).effect

    assert set(await asyncio.gather(*map(label, range(8)))) == {Effect.CONFIGURED}
    labels = (await writer.get("BGPPeer", "tor")).metadata.labels
    assert labels == {"rack": "r1", **{f"by{number}": "x" for number in range(8)}}


class Busy(FakeStore):
    """Somebody else writes the same key before each of our first `losses` writes."""

    def __init__(self, losses: int) -> None:
        super().__init__()
        self.losses = losses
        self.tries = 0

    async def commit(self, guards: Any, operations: Any) -> CommitOutcome:
        self.tries += 1
        if guards and self.losses:
            self.losses -= 1
            present = await self.get(guards[0].key)
            assert present is not None
            other: list[Operation] = [Put(present.key, present.value)]
            await super().commit([Unchanged(present.key, present.revision)], other)
        return await super().commit(guards, operations)


class AskedTwice(FakeStore):
    """The first answer to each write is lost, and the second says what it finds (docs/decisions/0016)."""

    async def commit(self, guards: Any, operations: Any) -> CommitOutcome:
        await super().commit(guards, operations)
        return await super().commit(guards, operations)


async def test_a_write_whose_answer_was_lost_is_no_failure() -> None:
    writer = ResourceWriter(AskedTwice(), SystemClock())
    made = await writer.write(found(PEER), WriteMode.CREATE)
    assert made.effect is Effect.CREATED
    assert await writer.get("BGPPeer", "tor") == made.resource
    assert (await writer.write(found(PEER, PEER.other), WriteMode.REPLACE)).effect is Effect.CONFIGURED
    assert (await writer.delete(found(PEER).resource)).effect is Effect.DELETED


@pytest.mark.parametrize("losses", [1, MOST_ATTEMPTS - 1, MOST_ATTEMPTS])
async def test_a_write_without_a_revision_is_tried_again_and_not_for_ever(losses: int) -> None:
    store = Busy(0)
    writer = ResourceWriter(store, SystemClock())
    await writer.write(found(PEER), WriteMode.CREATE)
    store.losses, store.tries = losses, 0
    if losses < MOST_ATTEMPTS:
        done = await writer.write(found(PEER, PEER.other), WriteMode.APPLY)
        assert (done.effect, store.tries) == (Effect.CONFIGURED, losses + 1)
    else:
        with pytest.raises(Conflict, match="somebody else keeps changing BGPPeer"):
            await writer.write(found(PEER, PEER.other), WriteMode.APPLY)
        assert store.tries == MOST_ATTEMPTS


async def test_a_write_with_a_revision_that_loses_once_is_refused() -> None:
    store = Busy(0)
    writer = ResourceWriter(store, SystemClock())
    await writer.write(found(PEER), WriteMode.CREATE)
    (mine,) = read(await shown(writer, PEER), "f")
    document = storage_layout.to_document(mine.resource)
    document["spec"]["asNumber"] = 65009
    store.losses = 1
    with pytest.raises(Conflict, match="has changed since it was read"):
        await writer.write(read(json.dumps(document), "f")[0], WriteMode.REPLACE)


@KINDS
@pytest.mark.parametrize("value", [b"", b"[", b"[]", b"null", b"[" * 5000, b"\xff"])
async def test_what_nobody_can_read_is_written_anew_by_who_applies_the_whole(
    example: Example, value: bytes
) -> None:
    store = FakeStore()
    writer = ResourceWriter(store, SystemClock())
    (parsed,) = read(example.text(), "f")
    key = storage_layout.key_of(parsed.resource)
    await store.commit((), [Put(key, value)])
    unreadable = (await writer.list_kind(example.kind))[1]
    assert [error.key for error in unreadable] == [key]
    with pytest.raises(Unreadable):
        await writer.get(example.kind, example.name)
    assert (await writer.write(parsed, WriteMode.APPLY)).effect is Effect.CONFIGURED
    again = await writer.get(example.kind, example.name)
    assert type(again) is type(parsed.resource)


@pytest.mark.parametrize(
    ("cidr", "size", "rules", "sentence"),
    [
        ("10.0.0.0/16", 26, b"{}", None),
        ("10.0.0.0/16", 29, b"{}", None),
        ("10.0.0.0/16", 21, b"{}", None),
        ("10.0.0.0/16", 20, b"{}", "etcd takes some 3335 of the 4096 addresses of a block /20"),
        ("fd00::/112", 116, b"{}", "of a block /116"),
        ("10.0.0.0/16", 32, b"{}", "20 blocks of /32 are 20 addresses .*--strictaffinity true .*host 110$"),
        ("10.0.0.0/16", 30, b"{}", "20 blocks of /30 are 80 addresses .*--max-blocks-per-host 28$"),
        ("fd00::/112", 128, b"{}", "20 blocks of /128 are 20 addresses"),
        ("10.0.0.0/28", 32, b"{}", None),  # the whole pool
        (
            "10.0.0.0/24",
            26,
            b'{"strict_affinity":true,"maxBlocksPerHost":1}',
            "configure --max-blocks-per-host 2$",
        ),
        ("10.0.0.0/16", 32, b'{"strict_affinity":true,"maxBlocksPerHost":200}', None),
        ("10.0.0.0/16", 32, b"{", "20 blocks of /32"),
    ],
)
async def test_a_block_size_that_will_cost_its_nodes_dearly_is_written_and_warned_of(
    writer: ResourceWriter, store: Store, cidr: str, size: int, rules: bytes, sentence: str | None
) -> None:
    await store.commit((), (Put(IPAM_CONFIG, rules),))
    made = await writer.write(found(POOL, {"cidr": cidr, "blockSize": size}), WriteMode.APPLY)
    assert made.effect is Effect.CREATED
    if sentence is None:
        assert made.warnings == ()
    else:
        (warning,) = made.warnings
        assert re.search(sentence, warning)
        assert warning.startswith("f: line ")
        assert "spec.blockSize: " in warning
    again = await writer.write(found(POOL, {"cidr": cidr, "blockSize": size}), WriteMode.APPLY)
    assert again.warnings == (), "what changes nothing is not told again"
