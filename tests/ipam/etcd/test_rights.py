"""The account that docs/etcd.md gives a node: everything an agent does works with it, and nothing else does."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.clock import SystemClock
from agent.configuration.config import NodeSettings
from agent.datastore.namespace_labels import NamespaceLabels
from agent.datastore.network_profiles import NetworkProfiles
from agent.datastore.resources.documents import read
from agent.datastore.resources.endpoint_form import profile_key
from agent.datastore.resources.resource_types import encode
from agent.datastore.set_aside import SetAside
from agent.datastore.state_cache import StateCache
from agent.datastore.syncer import Syncer
from agent.lab.lab_plan import Mode, with_mode
from agent.lab.lifecycle import SEED_POOL
from agent.node.node_resource import NodeResource
from ipam.allocation.allocator import Allocator
from ipam.etcd.client import EtcdStore
from ipam.etcd.etcd_config import EtcdConfig
from ipam.etcd.etcd_messages import rpc
from ipam.etcd.store import Delete, Put
from ipam.failures import StoreError, StoreRefused
from ipam.keys import IPAM_CONFIG, affinity_prefix, resource_key
from ipam.model import HandleId, NodeName
from tests import ROOT
from tests.fakes.kernel import FakeKernel
from tests.fixtures.etcd import Etcd, start_etcd
from tests.scenes.ipam.world import ask, endpoint

PAGE = ROOT / "docs" / "etcd.md"
NODE, PASSWORD, ROOTS, NETWORK = NodeName("node1"), "first", "roots", "net"
POOL_KEY = resource_key("ippools", "default-ipv4-ippool")
WAIT_SECONDS = 20


def etcdctl(server: Etcd, *words: str) -> None:
    """Run it as etcd's root."""
    command = ["etcdctl", f"--endpoints={server.endpoint}", f"--user=root:{ROOTS}", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def documented() -> list[list[str]]:
    """The page's commands, for our node."""
    lines = [line.strip() for line in PAGE.read_text().splitlines() if line.startswith("    etcdctl ")]
    return [
        line.replace("NODE", NODE).replace("PASSWORD", PASSWORD).replace("NETWORK", NETWORK).split()[1:]
        for line in lines
    ]


async def prepare(server: Etcd) -> None:
    admin = EtcdStore(EtcdConfig((server.endpoint,)))
    pool = read(json.dumps(with_mode(json.loads(SEED_POOL.read_text()), Mode.VXLAN, ipip=True)), "pool")[0]
    await admin.commit((), (Put(POOL_KEY, encode(pool.resource)),))
    await admin._calls.call_once("Auth", "UserAdd", rpc.AuthUserAddRequest(name="root", password=ROOTS))
    await admin._calls.call_once("Auth", "RoleAdd", rpc.AuthRoleAddRequest(name="root"))
    await admin._calls.call_once(
        "Auth", "UserGrantRole", rpc.AuthUserGrantRoleRequest(user="root", role="root")
    )
    await admin._calls.call_once("Auth", "AuthEnable", rpc.AuthEnableRequest())
    await admin.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Etcd]:
    with start_etcd() as running:
        asyncio.run(prepare(running))
        for words in documented():
            etcdctl(running, *words)
        yield running


def config(server: Etcd) -> EtcdConfig:
    return EtcdConfig((server.endpoint,), username=f"tortie-{NODE}", password=PASSWORD)


async def test_a_node_does_all_its_work_with_the_documented_rights(server: Etcd) -> None:
    store, cluster, bell = EtcdStore(config(server)), StateCache(NODE), asyncio.Event()
    syncer = Syncer(store, cluster, bell.set, contents=True)
    following = asyncio.create_task(syncer.run())
    async with asyncio.timeout(WAIT_SECONDS):
        while not syncer.in_sync:
            await bell.wait()
            bell.clear()
    allocator = Allocator(store, SystemClock().wall, lambda: cluster.pools, node=NODE)
    settings = NodeSettings(address="172.26.0.11/20")
    record = NodeResource(
        store,
        cluster,
        allocator,
        FakeKernel(),
        settings,
        (server.endpoint,),
        SystemClock(),
        SetAside(Path("/nonexistent")),
    )
    async with asyncio.timeout(WAIT_SECONDS):
        while (me := cluster.nodes.get(NODE)) is None or me.spec.ipv4_vxlan_tunnel_addr is None:
            await record.reconcile()
            assert record.trouble is None
            await bell.wait()
            bell.clear()
    result = await allocator.assign(ask("pod", NODE), lambda _: endpoint("pod"))
    assert len(result) == 1
    profiles = NetworkProfiles(store, SystemClock())
    await profiles.ensure(NETWORK, "k8s", WAIT_SECONDS)
    await profiles.keep({NETWORK: "k8s"})
    assert not [*profiles.troubles()]
    assert await store.get(profile_key(NETWORK)) is not None
    selecting = [
        replace(record, pool=replace(record.pool, namespace_selector="a == 'b'")) for record in cluster.pools
    ]
    namespace = await NamespaceLabels(store, lambda: selecting).of("default")
    assert namespace.unknown.startswith("there is no profile kns.default"), "it was read"
    syncer.follow_endpoints("default")
    await allocator.release_handle(HandleId("pod"))
    await allocator.release_node(NODE)
    assert not (await store.list(affinity_prefix(NODE, 4))).values
    assert syncer.trouble is None
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    await store.close()


@pytest.mark.parametrize(
    "key",
    [
        POOL_KEY,
        IPAM_CONFIG,
        resource_key("nodes", "node2"),
        resource_key("nodes", "node1a"),
        resource_key("bgppeers", "p"),
        resource_key("ipreservations", "r"),
        resource_key("profiles", "kns.default"),
        resource_key("profiles", "net2"),
        f"{affinity_prefix(NodeName('node2'), 4)}10.0.0.0-26",
        f"{affinity_prefix(NodeName('node10'), 4)}10.0.0.0-26",
        "/registry/secrets/a",
    ],
)
async def test_what_is_not_its_own_a_node_cannot_write(server: Etcd, key: str) -> None:
    store = EtcdStore(config(server))
    for operation in (Put(key, b"{}"), Delete(key)):
        with pytest.raises(StoreRefused, match="permission denied"):
            await store.commit((), (operation,))
    await store.close()


@pytest.mark.parametrize("prefix", ["/", "/registry/", "/calico/", "/calico/resources/"])
async def test_what_is_no_business_of_its_a_node_cannot_read(server: Etcd, prefix: str) -> None:
    store = EtcdStore(config(server))
    with pytest.raises(StoreRefused, match="permission denied"):
        await store.list(prefix)
    await store.close()


async def test_rights_and_the_password_may_change_while_an_agent_runs(server: Etcd) -> None:
    now = [PASSWORD]
    store = EtcdStore(
        EtcdConfig((server.endpoint,), username="tortie-node1", password="", fresh_password=lambda: now[0])
    )
    assert (await store.get(POOL_KEY)) is not None
    etcdctl(server, "role", "grant-permission", "tortie-node1", "--prefix=true", "read", "/more/")
    assert (await store.list("/more/")).values == {}
    etcdctl(server, "user", "delete", "tortie-node1")
    etcdctl(server, "user", "add", "tortie-node1:second")
    etcdctl(server, "user", "grant-role", "tortie-node1", "tortie-node1")
    with pytest.raises(StoreError):
        await store.get(POOL_KEY)
    now[0] = "second"
    assert (await store.get(POOL_KEY)) is not None
    await store.close()
