"""A DEL beside an ADD of the same attachment, wherever the two meet: nothing stays of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.cni.attachment import handle
from agent.cni.plugin import spec
from agent.cni.plugin.spec import Request
from agent.datastore.state_cache import ENDPOINTS
from ipam.etcd.store import Put
from ipam.failures import Conflict
from tests.fakes.store import FakeStore, Fault
from tests.scenes.cni.cni_world import World

NOTHING = (0, 0, 0)


class BetweenReads(FakeStore):
    """Does something right after the endpoint was read and not found."""

    def __init__(self) -> None:
        super().__init__()
        self.armed = False

    async def get(self, key: str) -> object:  # type: ignore[override]
        found = await super().get(key)
        if self.armed and key.startswith(ENDPOINTS):
            self.armed = False
            assert found is None
            self.deliver_late()
        return found


def asked(verb: str) -> Request:
    environment = {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/run/netns/x",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web",
    }
    return spec.parse(environment, b'{"cniVersion":"1.1.0","name":"net","type":"tortie"}')


async def test_a_del_that_read_no_endpoint_while_the_adds_transaction_was_under_way_leaves_none(
    tmp_path: Path,
) -> None:
    store = BetweenReads()
    world = World(tmp_path, store=store)
    await world.start()
    store.fail_next(Fault.LATE)
    assert (await world.call("ADD"))[0] == 1
    store.armed = True
    assert (await world.call("DEL"))[0] == 0
    assert not store.armed
    assert await world.stored() == NOTHING


async def test_a_release_of_an_attachment_whose_endpoint_comes_meanwhile_is_refused_and_read_again(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    await world.start()
    endpoints = world.server._store
    reading = endpoints.begin_reading(asked("DEL"))
    assert reading is not None
    assert (await reading).revision == 0
    await world.call("ADD")
    await endpoints.release(asked("DEL"), reading)
    assert await world.stored() == NOTHING


async def test_an_endpoint_that_cannot_be_read_does_not_keep_the_addresses(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    await world.call("ADD")
    ((key, stored),) = (await world.store.list(ENDPOINTS)).values.items()
    await world.store.commit((), (Put(key, stored.value[:-5]),))
    await world.server._store.release(asked("DEL"))
    assert await world.dependencies.allocator.assigned(handle(asked("DEL"))) == ()


async def test_an_endpoint_that_comes_again_and_again_ends_in_a_conflict(tmp_path: Path) -> None:
    """Bounded: the journal tries again."""
    world = World(tmp_path)
    await world.start()
    endpoints = world.server._store
    await world.call("ADD")
    ((key, stored),) = (await world.store.list(ENDPOINTS)).values.items()
    read = world.store.get

    async def get(wanted: str) -> object:
        found = await read(wanted)
        if wanted == key:
            await world.store.commit((), (Put(key, stored.value),))
        return found

    world.store.get = get  # type: ignore[method-assign, assignment]
    with pytest.raises(Conflict):
        await endpoints.release(asked("DEL"))
