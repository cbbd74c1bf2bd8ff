"""A node lives if something that can be seen from here says so, and nothing else is taken for it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from agent.node.signs_of_life import FELIX_STATUS, Signs, signs_of_life
from ipam.etcd.store import Put
from ipam.keys import resource_key
from ipam.model import NodeName
from tests.fakes.store import FakeStore

NODE = NodeName("node9")
HERE = "127.0.0.1"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server((HERE, 0)) as made:
        yield made


async def stored(port: int, address: str = HERE) -> FakeStore:
    store = FakeStore()
    documents = {
        resource_key("nodes", NODE): ("Node", NODE, {"bgp": {"ipv4Address": f"{address}/32"}}),
        resource_key("bgpconfigurations", f"node.{NODE}"): (
            "BGPConfiguration",
            f"node.{NODE}",
            {"listenPort": port},
        ),
    }
    for key, (kind, name, spec) in documents.items():
        document = {
            "kind": kind,
            "apiVersion": "projectcalico.org/v3",
            "metadata": {"name": name},
            "spec": spec,
        }
        await store.commit((), (Put(key, json.dumps(document).encode()),))
    return store


async def test_a_port_that_takes_connections_is_a_sign_and_one_that_refuses_them_is_none(
    listener: socket.socket,
) -> None:
    port = listener.getsockname()[1]
    found = await signs_of_life(await stored(port), NODE, ())
    assert found == Signs([f"its BGP port takes connections ({HERE} port {port})"])
    listener.close()
    found = await signs_of_life(await stored(port), NODE, ())
    doubt = f"its machine is there, without an agent or with a drained one ({HERE} port {port} refuses)"
    assert found == Signs([], [doubt])


async def test_a_session_is_a_sign_and_the_peer_is_not_asked_besides(listener: socket.socket) -> None:
    store = await stored(listener.getsockname()[1])
    (sign,) = (await signs_of_life(store, NODE, [ip_address(HERE)])).of_life
    assert sign == f"this machine's agent has a BGP session with {HERE}"
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.accept()


@pytest.mark.parametrize("pattern", FELIX_STATUS)
async def test_felixs_status_is_a_sign_as_long_as_its_lease_lives(
    pattern: str, listener: socket.socket
) -> None:
    port = listener.getsockname()[1]
    listener.close()
    store = await stored(port)
    key = pattern.format(NODE)
    await store.commit((), (Put(key, b"{}"),))
    assert (await signs_of_life(store, NODE, ())).of_life == [], "without a lease it stays for ever"
    lease = await store.grant_lease(90)
    await store.commit((), (Put(key, b"{}", lease),))
    assert (await signs_of_life(store, NODE, ())).of_life == [
        f"its Felix has reported within the last 90 s ({key})"
    ]
    store.expire(lease)
    assert (await signs_of_life(store, NODE, ())).of_life == []


@pytest.mark.parametrize("value", [None, b"{", b"{}"])
async def test_a_node_without_a_readable_record_shows_none(value: bytes | None) -> None:
    store = FakeStore()
    if value is not None:
        await store.commit((), (Put(resource_key("nodes", NODE), value),))
    async with asyncio.timeout(10):
        assert await signs_of_life(store, NODE, ()) == Signs()
