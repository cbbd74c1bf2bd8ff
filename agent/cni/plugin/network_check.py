"""`tortie cni check`: what the configurations that container runtimes read ask of our plugins and do not get.

Promises: pure; the same rules as at an ADD, for it is one that is read. Every file is looked at, in the order in which
runtimes do. Does not know: directories, who prints.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from agent.cni.plugin import spec
from agent.cni.plugin.ignored_keys import FOLLOWED, UNKNOWN, WHY
from agent.cni.plugin.options import IPAM_TYPES, CniError

MOST_PLUGINS = 64
"""Of one file."""
_ENVIRONMENT = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "check",
    "CNI_NETNS": "/run/netns/check",
    "CNI_IFNAME": "eth0",
}


class Level(IntEnum):
    """How bad it is."""

    ERROR = 1
    NOTE = 2


@dataclass(frozen=True, slots=True)
class NetworkFinding:
    """One thing that somebody who wrote a configuration should know."""

    level: Level
    where: str
    """The file; and the plugin in it."""
    what: str


def check_networks(files: Sequence[tuple[str, bytes]]) -> tuple[NetworkFinding, ...]:
    """Everything in these files (name, content) that is refused or not followed; runtimes take the first by name."""
    found: list[NetworkFinding] = []
    ours: list[str] = []
    for name, content in sorted(files):
        try:
            plugins = tuple(_plugins(content))
        except ValueError as error:
            found.append(NetworkFinding(Level.ERROR, name, str(error)))
            continue
        for plugin in plugins:
            if _is_ours(plugin):
                ours.append(name)
                found += _check(name, plugin)
    first = min((name for name, _ in files), default=None)
    if not ours:
        found.append(NetworkFinding(Level.NOTE, first or "no file", "no network asks for our plugins"))
    elif first is not None and first < ours[0]:
        found.append(NetworkFinding(Level.ERROR, first, f"runtimes take it, and not {ours[0]}: move it away"))
    return tuple(found)


def _plugins(content: bytes) -> Iterator[Mapping[str, Any]]:
    """The plugins of a file, each with what it gets of its list (libcni). Raises ValueError."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    listed = document.get("plugins", [document]) if isinstance(document, dict) else None
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise ValueError("neither a network nor a list of plugins")
    shared = {key: document[key] for key in ("name", "cniVersion") if key in document}
    for plugin in listed[:MOST_PLUGINS]:
        yield {**plugin, **shared}


def _is_ours(plugin: Mapping[str, Any]) -> bool:
    ipam = plugin.get("ipam")
    kinds = [plugin.get("type"), ipam.get("type") if isinstance(ipam, dict) else None]
    return kinds[0] in [*spec.PLUGIN_TYPES] or kinds[1] in IPAM_TYPES


def _check(name: str, plugin: Mapping[str, Any]) -> Iterator[NetworkFinding]:
    where = f"{name}, {str(plugin.get('type'))[:64]}"
    config = {key: value for key, value in plugin.items() if key != "capabilities"}
    try:
        request = spec.parse(_ENVIRONMENT, json.dumps(config).encode())
    except CniError as error:
        yield NetworkFinding(
            Level.ERROR, where, f"every ADD is refused with code {error.code.value}: {error.message}"
        )
        return
    for ignored in request.ignored:
        yield NetworkFinding(Level.NOTE, where, f"{ignored.key} is not followed: {ignored.why}")
    if request.addresses_only:
        return
    declared = plugin.get("capabilities")
    for capability, wanted in declared.items() if isinstance(declared, dict) else ():
        if wanted and capability not in FOLLOWED["runtimeConfig"]:
            why = WHY.get(f"runtimeConfig.{capability}", UNKNOWN)
            yield NetworkFinding(Level.NOTE, where, f"capability {capability[:64]} is not followed: {why}")
