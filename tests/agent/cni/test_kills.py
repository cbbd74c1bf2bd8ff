"""A kill -9 of agent and shim at every step of ADD and DEL; then the DEL that a runtime sends: nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.clock import SystemClock
from agent.cni.endpoint_store import USUAL_WAITS
from agent.cni.plugin.plugin_install import PluginPaths, install
from agent.cni.release_journal import STALE_SECONDS, ReleaseJournal
from agent.lab.fabric import make_namespace, remove_namespace
from ipam.etcd.client import EtcdStore
from ipam.etcd.etcd_config import EtcdConfig
from ipam.etcd.store import Put
from ipam.keys import BLOCKS, HANDLES, resource_key, resource_prefix
from tests.fixtures.etcd import Etcd, start_etcd
from tests.fixtures.namespace import fresh_namespace, ip
from tests.scenes.cni.dying_cni import ADD_POINTS, AWAY_POINTS, DEL_POINTS, REPLAY_POINTS
from tests.scenes.cni.libcni import Call, Libcni, PluginFailed

POOL = (
    b'{"kind":"IPPool","apiVersion":"projectcalico.org/v3","metadata":{"name":"p"},'
    b'"spec":{"cidr":"192.168.0.0/24","blockSize":26}}'
)
ID = "0e" * 32
PATIENCE_SECONDS = 5.0
"""Of a DEL: a test looks at what is left as soon as it is answered."""
QUICK_SECONDS = 1.0
"""Far less than the datastore's own deadlines; the target is 50 ms, on a machine that does nothing else."""


class Node:
    """Servers that die, and what they can leave behind."""

    def __init__(self, process: subprocess.Popen[bytes], state: Path) -> None:
        self._process = process
        self._pid = 0
        self.state = state

    def start(
        self, point: str = "", *, away: bool = False, ready: bool = True, patience: float = PATIENCE_SECONDS
    ) -> None:
        """A server that dies at a point, in place of the present one; `ready` false: before it answers calls."""
        self.kill()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{point}|{'away' if away else ''}|{patience}\n".encode())
        self._process.stdin.flush()
        words = self._process.stdout.readline().split()
        self._pid = int(words[0])
        assert words[1:] == ([b"ready"] if ready else [b"died"])

    def kill(self) -> None:
        """End the present server, if it has not ended itself."""
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
        self._pid = 0

    def releases(self) -> list[str]:
        """What is still to be carried out."""
        directory = self.state / "releases"
        return sorted(path.name for path in directory.glob("*.json")) if directory.exists() else []


@pytest.fixture(scope="module")
def pod() -> Iterator[str]:
    name = f"tortie-test-kills-{os.getpid()}"
    make_namespace(name)
    yield f"/run/netns/{name}"
    remove_namespace(name)


@pytest.fixture(scope="module")
def machine(pod: str) -> Iterator[Etcd]:
    """A namespace of its own, and etcd in it: these tests stay in there until the last of them."""
    with fresh_namespace(), start_etcd() as running:
        yield running


@pytest.fixture(scope="module")
def node(machine: Etcd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    state = tmp_path_factory.mktemp("state")
    command = [sys.executable, "-m", "tests.scenes.cni.dying_cni", machine.endpoint, str(state)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        made = Node(process, state)
        try:
            yield made
        finally:
            made.kill()
            process.kill()


@pytest.fixture
async def store(machine: Etcd) -> AsyncIterator[EtcdStore]:
    made = EtcdStore(EtcdConfig((machine.endpoint,)))
    await made.commit((), (Put(resource_key("ippools", "p"), POOL),))
    yield made
    await made.close()


@pytest.fixture(scope="module", params=["c", "python"])
def network(request: pytest.FixtureRequest, node: Node, tmp_path_factory: pytest.TempPathFactory) -> Libcni:
    plugins = tmp_path_factory.mktemp("plugins")
    for _ in install(
        PluginPaths(plugins, plugins, node.state / "cni.sock", node.state), request.param, "pods"
    ):
        pass
    return Libcni({"name": "pods", "cniVersion": "1.1.0", "plugins": [{"type": "tortie"}]}, [plugins])


async def must_be_clean(node: Node, store: EtcdStore) -> None:
    """No veth, no route, no address, no endpoint, no release."""
    kept = [
        prefix
        for prefix in (HANDLES, resource_prefix("workloadendpoints"))
        if (await store.list(prefix)).values
    ]
    held = [key for key, block in (await store.list(BLOCKS)).values.items() if b"handle_id" in block.value]
    left = [line for shown in ("-o link", "route") for line in ip(shown).splitlines() if "cali" in line]
    assert (kept, held, left, node.releases()) == ([], [], [], [])


@pytest.mark.parametrize("point", ADD_POINTS)
async def test_an_agent_killed_in_an_add_leaves_nothing_behind_the_del(
    node: Node, store: EtcdStore, network: Libcni, pod: str, point: str
) -> None:
    node.start(point)
    with pytest.raises(PluginFailed):
        await network.add(Call(ID, pod))
    # The DEL that follows a failed ADD found no agent, and was written down.
    assert node.releases()
    node.start()
    await must_be_clean(node, store)
    await network.add(Call(ID, pod))
    await network.delete(Call(ID, pod))
    await must_be_clean(node, store)


@pytest.mark.parametrize(
    ("point", "away"),
    [*((point, False) for point in DEL_POINTS), *((point, True) for point in AWAY_POINTS)],
)
async def test_an_agent_killed_in_a_del_with_or_without_the_datastore_is_finished_by_the_next_one(
    node: Node, store: EtcdStore, network: Libcni, pod: str, point: str, away: bool
) -> None:
    node.start()
    await network.add(Call(ID, pod))
    node.start(point, away=away)
    await network.delete(Call(ID, pod))
    node.start()
    await must_be_clean(node, store)


@pytest.mark.parametrize("point", REPLAY_POINTS)
async def test_an_agent_killed_while_it_carries_out_a_release_is_finished_by_the_next_one(
    node: Node, store: EtcdStore, network: Libcni, pod: str, point: str
) -> None:
    node.start()
    await network.add(Call(ID, pod))
    node.kill()
    await network.delete(Call(ID, pod))
    node.start(point, ready=False)
    node.start()
    await must_be_clean(node, store)


async def test_a_del_is_answered_at_once_while_etcd_hangs_and_carried_out_later(
    node: Node, store: EtcdStore, network: Libcni, pod: str, machine: Etcd
) -> None:
    node.start(patience=USUAL_WAITS.release)
    await network.add(Call(ID, pod))
    machine.freeze()
    try:
        async with asyncio.timeout(QUICK_SECONDS):
            await network.delete(Call(ID, pod))
    finally:
        machine.thaw()
    assert ip("-o link").count("cali") == 0
    node.start()
    await must_be_clean(node, store)


async def test_a_shim_killed_while_the_agent_attaches_leaves_nothing_behind_the_del(
    node: Node, store: EtcdStore, network: Libcni, pod: str
) -> None:
    node.start()
    call = Call(ID, pod)
    adding = asyncio.create_task(network.add(call))
    with socket.socket(socket.AF_UNIX) as shim:
        shim.connect(str(node.state / "cni.sock"))
        words = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": ID, "CNI_NETNS": pod, "CNI_IFNAME": "eth0"}
        config = b'{"cniVersion":"1.1.0","name":"pods","type":"tortie"}'
        shim.sendall(b"\0".join(f"{name}={text}".encode() for name, text in words.items()) + b"\0\0" + config)
    result = await adding  # the same container at the same moment: it waits, and gets what the first one made
    assert result["ips"]
    await network.delete(call)
    await must_be_clean(node, store)


# -- rounds at random -------------------------------------------------------------------------------------------------

ROUNDS = int(os.environ.get("TORTIE_KILL_ROUNDS", "500"))
PARTS = 2
"""Side by side, each on a node of its own."""
LONGEST_SHIM_SECONDS = 0.02
"""About what a call of the slower shim takes: a kill hits any step of it."""
CALL = b'{"cniVersion":"1.1.0","name":"pods","type":"tortie"}'


@dataclass(frozen=True)
class Rig:
    """What a round plays with."""

    node: Node
    networks: list[Libcni]
    programs: list[Path]
    pod: str
    chance: random.Random

    @property
    def network(self) -> Libcni:
        """One of both shims."""
        return self.chance.choice(self.networks)

    async def shim(self, verb: str) -> None:
        """A call whose shim is killed at any moment of it, if it has not ended by then."""
        words = {"CNI_COMMAND": verb, "CNI_CONTAINERID": ID, "CNI_NETNS": self.pod, "CNI_IFNAME": "eth0"}
        process = await asyncio.create_subprocess_exec(
            self.chance.choice(self.programs), env=words, stdin=-1, stdout=-3, stderr=-3
        )
        talking = asyncio.create_task(process.communicate(CALL))
        await asyncio.wait({talking}, timeout=self.chance.uniform(0, LONGEST_SHIM_SECONDS))
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await talking


async def killed_in_add(rig: Rig) -> bool:
    """Each of these says whether the agent lives on."""
    rig.node.start(rig.chance.choice(ADD_POINTS))
    with pytest.raises(PluginFailed):
        await rig.network.add(Call(ID, rig.pod))
    return False


async def killed_in_del(rig: Rig) -> bool:
    rig.node.start()
    await rig.network.add(Call(ID, rig.pod))
    away = rig.chance.random() < 0.5
    rig.node.start(rig.chance.choice(AWAY_POINTS if away else DEL_POINTS), away=away)
    await rig.network.delete(Call(ID, rig.pod))
    return False


async def killed_in_replay(rig: Rig) -> bool:
    rig.node.start()
    await rig.network.add(Call(ID, rig.pod))
    rig.node.kill()
    await rig.network.delete(Call(ID, rig.pod))
    rig.node.start(rig.chance.choice(REPLAY_POINTS), ready=False)
    return False


async def shim_killed_in_add(rig: Rig) -> bool:
    rig.node.start()
    await rig.shim("ADD")
    return True


async def shim_killed_in_del(rig: Rig) -> bool:
    rig.node.start()
    await rig.network.add(Call(ID, rig.pod))
    lives = rig.chance.random() < 0.5
    if not lives:
        rig.node.kill()  # the shim writes the release down itself
    await rig.shim("DEL")
    return lives


@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(PARTS))
async def test_rounds_of_kills_at_random_points_leave_nothing_behind_the_del(
    node: Node, store: EtcdStore, pod: str, tmp_path: Path, part: int
) -> None:
    """TORTIE_KILL_ROUNDS plays more of them; a failure names its round, and a round is determined by its number."""
    networks, programs = [], []
    for shim in ("c", "python"):
        paths = PluginPaths(tmp_path / shim, tmp_path / shim, node.state / "cni.sock", node.state)
        for _ in install(paths, shim, "pods"):
            pass
        conflist = {"name": "pods", "cniVersion": "1.1.0", "plugins": [{"type": "tortie"}]}
        networks.append(Libcni(conflist, [paths.plugins]))
        programs.append(paths.plugins / "tortie")
    kinds = (killed_in_add, killed_in_del, killed_in_replay, shim_killed_in_add, shim_killed_in_del)
    played: Counter[str] = Counter()
    for number in range(part, ROUNDS, PARTS):
        rig = Rig(node, networks, programs, pod, random.Random(number))
        kind = rig.chance.choice(kinds)
        lives = await kind(rig)
        if not lives or rig.chance.random() < 0.5:
            node.start()
        await rig.network.delete(Call(ID, pod))
        try:
            await must_be_clean(node, store)
        except AssertionError as error:
            raise AssertionError(f"round {number}, {kind.__name__}") from error
        played[kind.__name__] += 1
    assert len(played) == len(kinds)
    await ReleaseJournal(node.state).names("", SystemClock().wall().timestamp() + STALE_SECONDS)
    assert [path for path in (node.state / "releases").iterdir() if path.suffix != ".json"] == []
