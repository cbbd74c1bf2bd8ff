"""Walks all kinds of troubles on one agent, in a process of its own; its argument is a directory for the agent.

gRPC keeps threads from its first use on, and a thread stays in the network namespace in which it was made: in a process
that has spoken to another etcd before, a namespace's own could not be reached.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from structlog.testing import capture_logs

from agent.cni.pod.pod_network import NetlinkPodNetwork
from agent.configuration.config import Config, EtcdSettings, NodeSettings, PathSettings
from agent.logging.log_stream import LogStream
from agent.node_agent import Agent
from agent.trouble import TroubleKind
from tests.fixtures.etcd import start_etcd
from tests.fixtures.namespace import fresh_namespace, ip, make_links
from tests.scenes.troubles.trouble_causes import (
    ALONE,
    CAUSES,
    LAW_SECONDS,
    ME,
    PATIENCE_SECONDS,
    PODS,
    POOL,
    TRIES,
    World,
)


@contextmanager
def machine() -> Iterator[None]:
    """A namespace with an underlay and three pods' interfaces."""
    with fresh_namespace():
        make_links("eth0", "cali1", "cali2", "cali3")
        ip("addr add 172.26.0.11/20 dev eth0")
        for number in (1, 2, 3):
            ip(f"link set cali{number} mtu 1400")
        yield


@asynccontextmanager
async def node(directory: Path) -> AsyncIterator[World]:
    """An agent at work, without any trouble."""
    run_directory, state = directory / "run", directory / "state"
    run_directory.mkdir()
    state.mkdir()
    pipe = os.pipe()
    with machine(), start_etcd() as etcd, capture_logs() as said:
        config = Config(
            node=NodeSettings(name=ME, address="172.26.0.11/20"),
            etcd=EtcdSettings(endpoints=[etcd.endpoint]),
            paths=PathSettings(run=str(run_directory), state=str(state), secrets=str(directory)),
        )
        agent = Agent(config, lambda: config, lambda: None, LogStream(pipe[1]))
        world = World(agent, etcd, said, pipe, directory, asyncio.Event())
        told = agent._watch._changed
        agent._watch._changed = lambda: (told(), world.changed.set())  # type: ignore[func-returns-value,assignment]
        tasks: list[asyncio.Task[None]] = []
        try:
            await world.put(POOL, *PODS)
            tasks += [asyncio.create_task(one) for one in (agent.run(), world.measure())]
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not agent._supervision.ready or agent._watch.listed or not agent._bgp.converged:
                    await agent._reconciler.wait_for_routes([], PATIENCE_SECONDS)
            yield world
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            agent._kernel.close()
            assert isinstance(agent._pods, NetlinkPodNetwork)
            agent._pods.close()
            for descriptor in pipe:
                os.close(descriptor)


async def walked(world: World, kind: TroubleKind) -> str:
    """Cause and end one kind; what of the law did not hold."""
    async with CAUSES[kind](world):
        came = await world.until(kind, there=True)
        shown = world.shown(kind)
    gone = await world.until(kind, there=False)
    if came <= LAW_SECONDS and gone <= LAW_SECONDS:
        return ""
    return f"came after {came:.2f} s {shown}, gone after {gone:.2f} s {world.shown(kind)}"


async def walk(directory: Path) -> dict[str, str]:
    """Kind -> what of the law did not hold."""
    broken: dict[str, str] = {}
    async with node(directory) as world:
        together = [kind for kind in CAUSES if kind not in ALONE]
        found = await asyncio.gather(*(walked(world, kind) for kind in together))
        late = {kind: why for kind, why in zip(together, found, strict=True) if why}
        for kind in CAUSES:
            # Among so many others, on a machine that may be busy, one may be late: by itself it may not.
            tries = TRIES if kind in ALONE or kind in late else 0
            for _ in range(tries):
                if not (why := await walked(world, kind)):
                    break
            else:
                broken |= {kind.value: why} if tries else {}
    return broken


if __name__ == "__main__":
    print(json.dumps(asyncio.run(walk(Path(sys.argv[1])))))
