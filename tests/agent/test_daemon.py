"""How the agent's process begins when the machine has nothing left for it, and goes on when parts of it fail."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from agent import parts
from agent.cni.pod.pod_network import NetlinkPodNetwork
from agent.configuration.config import Config, EtcdSettings, MetricsSettings, NodeSettings, PathSettings
from agent.logging.log_stream import LogStream
from agent.node_agent import Agent
from tests.fixtures.etcd import free_ports
from tests.fixtures.namespace import fresh_namespace

PATIENCE_SECONDS = 30
PROGRAM = """
import os, resource, sys
from agent import daemon
used = max(int(name) for name in os.listdir("/proc/self/fd")) + 1
resource.setrlimit(resource.RLIMIT_NOFILE, (used + int(sys.argv.pop()), used + 100))
daemon.main()
"""


@pytest.mark.parametrize("more", [-1, 4])
def test_a_start_without_descriptors_ends_with_a_sentence(tmp_path: Path, more: int) -> None:
    """More than are open: for none, not even its lock; for its loop, but no netlink socket."""
    settings = {"TORTIE_PATHS_RUN": str(tmp_path / "run"), "TORTIE_PATHS_STATE": str(tmp_path / "state")}
    environment = {**os.environ, **settings, "TORTIE_ETCD_ENDPOINTS": "http://127.0.0.1:1"}
    with fresh_namespace():
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(more)],
            capture_output=True,
            text=True,
            env=environment,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("tortie-agent: ")
    assert "Too many open files" in done.stderr
    assert "Traceback" not in done.stderr


class FailsOnce:
    """A part whose first run ends with a mistake, and whose second one is its own."""

    def __init__(self, run: Callable[[], Awaitable[None]]) -> None:
        self._run = run
        self._failed = False
        self.again = asyncio.Event()

    async def __call__(self) -> None:
        if not self._failed:
            self._failed = True
            raise KeyError("spec")
        self.again.set()
        await self._run()


async def test_each_part_of_an_agent_may_fail_and_the_agent_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "FIRST_WAIT_SECONDS", 0.01)
    run, state = tmp_path / "run", tmp_path / "state"
    run.mkdir()
    state.mkdir()
    config = Config(
        node=NodeSettings(name="n1"),
        etcd=EtcdSettings(endpoints=["http://127.0.0.1:1"]),
        paths=PathSettings(run=str(run), state=str(state)),
        metrics=MetricsSettings(listen=f"127.0.0.1:{free_ports(1)[0]}"),
    )
    nowhere = LogStream(os.open(os.devnull, os.O_WRONLY))
    with fresh_namespace():
        agent = Agent(config, lambda: config, lambda: None, nowhere)
        failing = {name: FailsOnce(one) for name, one in agent._runs().items()}
        monkeypatch.setattr(agent, "_runs", lambda: failing)
        running = asyncio.create_task(agent.run())
        async with asyncio.timeout(PATIENCE_SECONDS):
            for one in failing.values():
                await one.again.wait()
        troubles = [str(one) for one in agent._status.troubles()]
        metrics = agent._exposition.text().decode()
        for name in failing:
            said = f"part {name}: failed 1 times: KeyError: 'spec'"
            assert [text for text in troubles if text.startswith(said)] != []
            assert f'tortie_part_failures_total{{part="{name}"}} 1.0' in metrics
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        agent._kernel.close()
        pods = agent._cni._dependencies.pods
        assert isinstance(pods, NetlinkPodNetwork)
        pods.close()
        os.close(nowhere._descriptor)
