"""A node whose CNI server answers in this process, with real plugins, a real kernel and a container to attach.

Promises: everything is in a namespace of its own; what is left of a test is seen by `must_be_as_before`.
Does not know: runtimes' orders of calls, chains.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.cni.plugin.plugin_install import PluginPaths, install
from agent.cni.pod.pod_network import NetlinkPodNetwork
from agent.lab.fabric import make_namespace, remove_namespace
from tests.fixtures.namespace import fresh_namespace
from tests.scenes.cni.cni_world import World
from tests.scenes.cni.libcni import Libcni

NAMESPACE_SECONDS = 10.0
"""How long the kernel may take to clear away a namespace, and with it the far ends of its devices."""
RTMGRP_LINK = 1
"""linux/rtnetlink.h: whoever listens is notified of each link that goes."""
DEBIAN = Path("/usr/lib/cni")
ID = "0f" * 32
SANDBOX = f"IgnoreUnknown=1;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID={ID};K8S_POD_NAMESPACE=default"


@dataclass
class Machine:
    """A node whose CNI server answers in this process, and a container that is to be attached."""

    world: World
    paths: PluginPaths
    namespace: str

    @property
    def netns(self) -> str:
        return f"/run/netns/{self.namespace}"

    def network(self, kind: str, version: str, *more: dict[str, Any]) -> Libcni:
        """A list of one of the plugins under test, and what follows it in the chain."""
        first: dict[str, Any] = {"type": "tortie", "capabilities": {"ips": True, "mac": True}}
        if kind != "tortie":
            plugin, _, whose = kind.partition(" with ")
            local = {"type": "host-local", "subnet": "10.8.0.0/24", "dataDir": str(self.paths.state)}
            ours = {"type": "tortie-ipam", "length": 24, "gateway": "192.168.0.254"}
            first = {"type": plugin, "ipam": ours if whose == "our addresses" else local}
        conflist = {"name": "pods", "cniVersion": version, "plugins": [first, *more]}
        return Libcni(conflist, [self.paths.plugins, DEBIAN])

    def devices(self) -> list[str]:
        """All but loopback, here and in the container."""
        inside = ["-n", self.namespace] if Path(self.netns).exists() else []
        shown = [
            subprocess.run(["ip", *where, "-j", "link"], capture_output=True, check=True)
            for where in ([], inside)
        ]
        return [
            link["ifname"] for text in shown for link in json.loads(text.stdout) if link["ifname"] != "lo"
        ]

    async def must_be_as_before(self) -> None:
        """Nothing in the datastore, the kernel, the journal."""
        assert await self.world.stored() == (0, 0, 0)
        assert (self.world.journal(), self.world.cluster.endpoints) == ([], ())
        assert self.devices() == []

    async def namespaces_cleared(self, *kept: str) -> None:
        """Wait for the kernel, where a plugin leaves a device for it to take away with the namespace."""
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as events:
            events.setblocking(False)
            events.bind((0, RTMGRP_LINK))
            async with asyncio.timeout(NAMESPACE_SECONDS):
                while set(self.devices()) - set(kept):
                    await asyncio.get_running_loop().sock_recv(events, 1 << 16)


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"tortie-test-runtime-{os.getpid()}"
    make_namespace(name)
    try:
        with fresh_namespace():
            yield name
    finally:
        with suppress(OSError):
            remove_namespace(name)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> PluginPaths:
    root = tmp_path_factory.mktemp("node")
    made = PluginPaths(root / "bin", root / "net.d", root / "cni.sock", root)
    for _ in install(made, "auto", "pods"):
        pass
    return made


@pytest.fixture
async def machine(namespace: str, paths: PluginPaths) -> AsyncIterator[Machine]:
    pods = NetlinkPodNetwork()
    world = World(paths.state, pods)
    await world.start()
    ready = asyncio.Event()
    server = asyncio.create_task(world.server.run(ready.set))
    await ready.wait()
    try:
        yield Machine(world, paths, namespace)
    finally:
        server.cancel()
        await asyncio.gather(server, return_exceptions=True)
        pods.close()
