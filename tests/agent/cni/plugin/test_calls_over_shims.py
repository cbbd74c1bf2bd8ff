"""Odd calls of a runtime through both shims and the server's own socket: each is answered, and the next one served."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agent.cni.plugin.options import Code
from agent.cni.plugin.plugin_install import PluginPaths, install
from tests.scenes.cni.cni_world import World

USUAL = {"cniVersion": "1.1.0", "name": "net", "type": "tortie"}
KNOWN = frozenset(code.value for code in Code if code is not Code.INTERNAL)
RESULT = {"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "x": "é" * 100_000}], "ips": []}
CONFIGURATIONS = {
    "empty": b"",
    "octets": bytes(range(256)),
    "deep": b"[" * 100_000,
    "a type that is a list": json.dumps({**USUAL, "type": []}).encode(),
    "half a pair": b'{"cniVersion":"1.1.0","name":"\\ud800","type":"tortie"}',
    "half a pair in octets": b'{"cniVersion":"1.1.0","name":"\xed\xa0\x80","type":"tortie"}',
    "no number": b'{"cniVersion":"1.1.0","name":"net","type":"tortie","mtu":NaN}',
    "10 MB": json.dumps({**USUAL, "x": "x" * (10 << 20)}).encode(),
    "a large prevResult": json.dumps({**USUAL, "prevResult": RESULT}, ensure_ascii=False).encode(),
    "a list for ipam": json.dumps({**USUAL, "ipam": []}).encode(),
}
VARIABLES = {
    "a long id": {"CNI_CONTAINERID": "c" * 253},
    "too long an id": {"CNI_CONTAINERID": "c" * 254},
    "a path for an id": {"CNI_CONTAINERID": "../../x"},
    "a line end in the path": {"CNI_NETNS": "/run/netns/x\n<3>forged"},
    "a huge path": {"CNI_NETNS": "/" + "x" * 8000},
    "huge arguments": {"CNI_ARGS": "X=" + "x" * 20_000},
    "a path for a pod": {"CNI_ARGS": "K8S_POD_NAMESPACE=..;K8S_POD_NAME=../../x"},
    "a template": {"CNI_IFNAME": "eth%d"},
    "a line end for a verb": {"CNI_COMMAND": "ADD\nDEL"},
    "octets": {"CNI_ARGS": "K8S_POD_NAME=\udcff;K8S_POD_NAMESPACE=x"},
}


@pytest.fixture(scope="module", params=["c", "python"])
def plugin(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PluginPaths:
    root = tmp_path_factory.mktemp("node")
    made = PluginPaths(root / "bin", root / "net.d", root / "cni.sock", root)
    for _ in install(made, request.param, "net"):
        pass
    return made


@pytest.fixture
async def world(plugin: PluginPaths) -> AsyncIterator[World]:
    made = World(plugin.state)
    await made.start()
    ready = asyncio.Event()
    server = asyncio.create_task(made.server.run(ready.set))
    await ready.wait()
    yield made
    server.cancel()
    await asyncio.gather(server, return_exceptions=True)


async def called(
    plugin: PluginPaths, environment: dict[str, str], stdin: bytes
) -> tuple[int, dict[str, Any]]:
    """The plugin's exit status and what it printed, which must be JSON for a strict reader."""
    usual = {"CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/x", "CNI_IFNAME": "eth0"}
    process = await asyncio.create_subprocess_exec(
        plugin.plugins / "tortie",
        env={**usual, **environment},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(20):
        output, _ = await process.communicate(stdin)
    return process.returncode or 0, json.loads(output) if output else {}


def odd_calls(verb: str) -> dict[str, tuple[dict[str, str], bytes]]:
    calls = {name: ({"CNI_COMMAND": verb}, stdin) for name, stdin in CONFIGURATIONS.items()}
    plain = json.dumps(USUAL).encode()
    return calls | {name: ({"CNI_COMMAND": verb, **words}, plain) for name, words in VARIABLES.items()}


@pytest.mark.parametrize("verb", ["ADD", "DEL"])
async def test_an_odd_call_has_an_answer_with_a_known_code_and_the_next_is_served(
    world: World, plugin: PluginPaths, verb: str
) -> None:
    found = {name: await called(plugin, *call) for name, call in odd_calls(verb).items()}
    wrong = {
        name: answer
        for name, answer in found.items()
        if (answer[0], "code" in answer[1]) not in ((0, False), (1, True))
        or (answer[0] and answer[1]["code"] not in KNOWN)
    }
    assert wrong == {}
    assert found["a long id"][0] == 0
    for last in ("ADD", "DEL"):
        words = {"CNI_COMMAND": last, "CNI_CONTAINERID": "last"}
        assert (await called(plugin, words, json.dumps(USUAL).encode()))[0] == 0
    assert world.journal() == []


async def test_a_call_that_is_cut_short_does_nothing(world: World, plugin: PluginPaths) -> None:
    await world.call("ADD", "c1")
    for cut in (
        b"",
        b"CNI_COMMAND=DEL\0CNI_CONTAINERID=c1",
        b"CNI_COMMAND=DEL\0CNI_CONTAINERID=c1\0CNI_IFNAME=eth0",
    ):
        reader, writer = await asyncio.open_unix_connection(str(plugin.socket))
        writer.write(cut)
        writer.write_eof()
        answer = await reader.read()
        assert (answer[:1], json.loads(answer[1:])["code"]) == (b"1", 4)
        writer.close()
    assert await world.stored() == (1, 1, 1)
