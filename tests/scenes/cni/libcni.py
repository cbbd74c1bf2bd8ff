"""Plays the runtime's side of CNI as libcni does: environment, standard input, chain, cached results, capabilities.

Promises: what a plugin gets and in which order is what libcni would give it; an error is the plugin's own words.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CALL_SECONDS = 30.0
SINCE_CACHED_DEL = ("0.4.0", "1.0.0", "1.1.0")
"""Versions whose DEL gets the cached result."""


class PluginFailed(Exception):
    """The plugin's error."""

    def __init__(self, plugin: str, verb: str, error: Mapping[str, Any]) -> None:
        super().__init__(f"{plugin} {verb}: {error}")
        self.code = error.get("code")


@dataclass(frozen=True)
class Call:
    """One container's interface, as a runtime names it."""

    container: str
    netns: str
    interface: str = "eth0"
    args: str = ""
    runtime: Mapping[str, Any] = field(default_factory=dict)


class Libcni:
    """One network list."""

    def __init__(self, conflist: Mapping[str, Any], path: Sequence[Path]) -> None:
        self._name: str = conflist["name"]
        self.version: str = conflist["cniVersion"]
        self._plugins: list[dict[str, Any]] = conflist["plugins"]
        self._path = path
        self._cache: dict[tuple[str, str], Any] = {}

    async def add(self, call: Call) -> Any:
        """ADD through the chain; on a failure DEL, as runtimes do, and the error."""
        result = None
        try:
            for plugin in self._plugins:
                result = await self._run("ADD", plugin, call, result)
        except PluginFailed:
            await self.delete(call)
            raise
        self._cache[(call.container, call.interface)] = result
        return result

    async def delete(self, call: Call, *, cached: bool = True) -> None:
        """DEL backwards through the chain; `cached` false: the runtime has lost its cache."""
        known = self._cache.get((call.container, call.interface)) if cached else None
        for plugin in reversed(self._plugins):
            await self._run("DEL", plugin, call, known if self.version in SINCE_CACHED_DEL else None)
        self._cache.pop((call.container, call.interface), None)

    async def check(self, call: Call) -> None:
        """CHECK forwards through the chain, each with the last result."""
        for plugin in self._plugins:
            await self._run("CHECK", plugin, call, self._cache[(call.container, call.interface)])

    async def status(self) -> None:
        """STATUS of each plugin."""
        for plugin in self._plugins:
            await self._run("STATUS", plugin, None, None)

    async def collect(self, valid: Sequence[tuple[str, str]]) -> None:
        """GC: a DEL for each stale cached attachment, then GC with what is in use."""
        for container, interface in [pair for pair in self._cache if pair not in valid]:
            await self.delete(Call(container, "", interface))
        listed = [{"containerID": container, "ifname": interface} for container, interface in valid]
        extra = {"cni.dev/valid-attachments": listed, "cni.dev/attachments": listed}
        for plugin in self._plugins:
            await self._run("GC", {**plugin, **extra}, None, None)

    async def versions(self) -> list[list[str]]:
        """VERSION of each plugin, as podman and CRI-O ask it: with dummies in the environment."""
        dummy = Call("dummy", "dummy", "dummy")
        found = [
            await self._run("VERSION", {"cniVersion": self.version, "type": plugin["type"]}, dummy, None)
            for plugin in self._plugins
        ]
        return [answer["supportedVersions"] for answer in found]

    async def _run(self, verb: str, plugin: Mapping[str, Any], call: Call | None, previous: Any) -> Any:
        config = {**plugin, "name": self._name, "cniVersion": self.version}
        declared = config.pop("capabilities", {})
        if previous is not None:
            config["prevResult"] = previous
        environment = {
            "PATH": os.environ["PATH"],
            "CNI_COMMAND": verb,
            "CNI_PATH": ":".join(map(str, self._path)),
        }
        if call is not None:
            environment |= {
                "CNI_CONTAINERID": call.container,
                "CNI_NETNS": call.netns,
                "CNI_IFNAME": call.interface,
                "CNI_ARGS": call.args,
            }
            runtime = {name: value for name, value in call.runtime.items() if declared.get(name)}
            if runtime:
                config["runtimeConfig"] = runtime
        return await run_plugin(self._program(plugin["type"]), environment, json.dumps(config).encode())

    def _program(self, kind: str) -> Path:
        return next(found for directory in self._path if (found := directory / kind).exists())


async def run_plugin(program: Path, environment: Mapping[str, str], stdin: bytes) -> Any:
    """One invocation; what it printed, decoded. Raises PluginFailed."""
    process = await asyncio.create_subprocess_exec(
        program,
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(CALL_SECONDS):
        output, noise = await process.communicate(stdin)
    if process.returncode:
        error = json.loads(output) if output else {"msg": f"no message: {noise.decode()}"}
        raise PluginFailed(program.name, environment["CNI_COMMAND"], error)
    return json.loads(output) if output.strip() else None
