"""What the plugin prints: results, errors, versions, each in the form of the version that was asked for.

Promises: pure; what came with prevResult is kept, ours is added to it. Does not know: requests' origin.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from agent.cni.attachment import HOST_MAC, Attachment
from agent.cni.plugin.options import CniError, Options
from agent.cni.plugin.spec import NO_OPTIONS, VERSIONS
from agent.netlink.objects import Address
from ipam.address_text import text_of

OLDEST_FORM = ("0.1.0", "0.2.0")
"""Versions whose result has one address of each family and no interfaces."""
WITH_FAMILY = ("0.3.0", "0.3.1", "0.4.0")
"""Versions whose result names the family of each address; 1.0.0 dropped it."""


def render(made: Attachment, version: str, previous: Mapping[str, Any] | None = None) -> bytes:
    """The result of an ADD that made this, added to what the plugins before this one did (`previous`)."""
    if version in OLDEST_FORM:
        return _oldest(version, made.addresses, NO_OPTIONS)
    interfaces: list[dict[str, object]] = [
        {"name": made.host_interface, "mac": HOST_MAC},
        {"name": made.interface, "mac": made.mac, "sandbox": made.netns},
    ]
    if version == "1.1.0":
        for interface in interfaces:
            interface["mtu"] = made.mtu
    before = dict(previous or {})
    others = before.get("interfaces") or []
    ips = _ips(version, made.addresses, NO_OPTIONS)
    for ip in ips:
        ip["interface"] = len(others) + 1
    before |= {
        "cniVersion": version,
        "interfaces": [*others, *interfaces],
        "ips": [*(before.get("ips") or []), *ips],
    }
    before.setdefault("dns", {})
    return json.dumps(before).encode()


def render_addresses(addresses: Iterable[Address], options: Options, version: str) -> bytes:
    """The abbreviated result that another plugin asks its IPAM for: no interfaces."""
    found = tuple(addresses)
    if version in OLDEST_FORM:
        return _oldest(version, found, options)
    ips = _ips(version, found, options)
    raw = {"cniVersion": version, "ips": ips, "routes": list(options.routes), "dns": {}}
    return json.dumps(raw).encode()


def _ips(version: str, addresses: Iterable[Address], options: Options) -> list[dict[str, object]]:
    found = []
    for address in addresses:
        ip: dict[str, object] = {"address": f"{text_of(address)}/{options.lengths[address.version]}"}
        if address.version in options.gateways:
            ip["gateway"] = options.gateways[address.version]
        if version in WITH_FAMILY:
            ip["version"] = str(address.version)
        found.append(ip)
    return found


def _oldest(version: str, addresses: tuple[Address, ...], options: Options) -> bytes:
    raw: dict[str, object] = {"cniVersion": version}
    for address in reversed(addresses):  # the first of each family
        ip = {"ip": f"{text_of(address)}/{options.lengths[address.version]}"}
        if address.version in options.gateways:
            ip["gateway"] = options.gateways[address.version]
        raw[f"ip{address.version}"] = ip
    return json.dumps({**raw, "dns": {}}).encode()


def render_error(error: CniError, version: str) -> bytes:
    """The error as the specification has it; on standard output, with a non-zero exit."""
    raw = {"cniVersion": version, "code": error.code.value, "msg": error.message, "details": error.details}
    return json.dumps({name: value for name, value in raw.items() if value != ""}).encode()


def render_versions(version: str) -> bytes:
    """The answer to VERSION."""
    return json.dumps({"cniVersion": version, "supportedVersions": list(VERSIONS)}).encode()
