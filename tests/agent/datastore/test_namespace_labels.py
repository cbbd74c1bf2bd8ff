"""The labels of a namespace are those of the profile that Calico's kube-controllers write, and unknown without it."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_network

import pytest

from agent.datastore.namespace_labels import NamespaceLabels
from agent.trouble import TroubleKind
from ipam.etcd.store import Delete, Put, Versioned
from ipam.failures import StoreRefused, StoreUnavailable
from ipam.keys import resource_key
from ipam.model import Namespace, Pool, PoolRecord
from tests.fakes.store import FakeStore

KEY = resource_key("profiles", "kns.shop")
OPEN = PoolRecord(Pool("open", ip_network("10.1.0.0/16"), 26), "k", 1)
FOR_PROD = replace(OPEN, pool=replace(OPEN.pool, name="prod", namespace_selector="env == 'prod'"))


def profile(labels: object) -> bytes:
    """As kube-controllers store a namespace."""
    spec = {"ingress": [{"action": "Allow"}], "egress": [{"action": "Allow"}], "labelsToApply": labels}
    return json.dumps({"kind": "Profile", "metadata": {"name": "kns.shop"}, "spec": spec}).encode()


SHOP = profile({"pcns.env": "prod", "pcns.projectcalico.org/name": "shop", "beside": "x"})


class World:
    def __init__(self, *pools: PoolRecord) -> None:
        self.store = FakeStore()
        self.pools = pools
        self.labels = NamespaceLabels(self.store, lambda: self.pools)

    async def put(self, value: bytes) -> None:
        await self.store.commit((), (Put(KEY, value),))


async def test_labels_are_read_at_each_call_and_only_where_a_pool_selects_by_them() -> None:
    world = World(OPEN)
    await world.put(SHOP)
    before = world.store.calls
    assert await world.labels.of("shop") == Namespace("shop")
    assert world.store.calls == before
    world.pools = (OPEN, FOR_PROD)
    assert await world.labels.of("shop") == Namespace("shop", (("env", "prod"),))
    await world.put(profile(None))
    assert await world.labels.of("shop") == Namespace("shop")


@pytest.mark.parametrize(
    "value",
    [b"{", b'{"spec":[]}', b'{"spec":{"labelsToApply":[1]}}', profile({"pcns.env": 5}), profile("x"), b"[]"],
)
async def test_what_cannot_be_read_or_is_not_there_is_unknown_with_a_reason_and_a_trouble_until_it_is_known(
    value: bytes,
) -> None:
    world = World(FOR_PROD)
    found = await world.labels.of("shop")
    assert "there is no profile kns.shop" in found.unknown
    await world.put(value)
    found = await world.labels.of("shop")
    assert found.unknown.startswith(KEY)
    (trouble,) = world.labels.troubles()
    assert (trouble.kind, trouble.about) == (TroubleKind.NAMESPACE, "namespace shop")
    assert "namespaceSelector: prod" in trouble.loss
    await world.put(SHOP)
    await world.labels.look_again()
    assert list(world.labels.troubles()) == []
    assert (await world.labels.of("shop")).unknown == ""


async def test_a_trouble_ends_with_the_last_pool_that_selects_by_namespace() -> None:
    world = World(FOR_PROD)
    await world.labels.of("shop")
    assert list(world.labels.troubles())
    world.pools = (OPEN,)
    assert list(world.labels.troubles()) == []
    await world.labels.look_again()
    world.pools = (FOR_PROD,)
    assert list(world.labels.troubles()) == []


async def test_a_datastore_that_is_away_is_asked_again_and_one_that_refuses_knows_nothing() -> None:
    world = World(FOR_PROD)
    world.store.away = True
    with pytest.raises(StoreUnavailable):
        await world.labels.of("shop")

    class Refusing(FakeStore):
        async def get(self, key: str) -> Versioned | None:
            raise StoreRefused("etcd says: permission denied")

    labels = NamespaceLabels(Refusing(), lambda: (FOR_PROD,))
    assert (await labels.of("shop")).unknown == "etcd says: permission denied"


async def test_a_namespace_that_is_gone_is_unknown_again() -> None:
    world = World(FOR_PROD)
    await world.put(SHOP)
    await world.labels.of("shop")
    await world.store.commit((), (Delete(KEY),))
    assert (await world.labels.of("shop")).unknown
