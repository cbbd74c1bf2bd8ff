"""Our IPAM for other plugins (bridge, ptp, macvlan …), which call it as `tortie-ipam`: addresses and nothing else.

Promises: as for pods: all or nothing, again the same, DEL always succeeds. Nothing is written but the addresses and
their handle, whose words let GC find them. Does not know: what the other plugin does with them.
"""

from __future__ import annotations

import asyncio

from agent.cni.dependencies import Dependencies, translated_errors
from agent.cni.differences import result_addresses
from agent.cni.endpoint_store import EndpointStore
from agent.cni.plugin.options import CniError, Code
from agent.cni.plugin.results import render_addresses
from agent.cni.plugin.spec import Request
from agent.cni.release_journal import Release
from ipam.address_text import text_of


async def add_addresses(
    dependencies: Dependencies, store: EndpointStore, request: Request, release: Release
) -> bytes:
    """Assign addresses; the abbreviated result, which has no interfaces. Raises CniError."""
    dependencies.require_ready()
    try:
        assigned = await store.assigned(store.begin_assignment(request))
    except asyncio.CancelledError:
        await store.release_or_record(request, release, lambda: None)
        raise
    addresses = [item.address for item in assigned]
    return render_addresses(addresses, request.options, request.version)


async def check_addresses(store: EndpointStore, request: Request) -> None:
    """Compare the addresses that the result names with those the handle holds. Raises CniError."""
    with translated_errors():
        held = {text_of(address) for address in await store.held(request)}
    result = result_addresses(request.previous or {}, request.interface)
    if not held or not held.issuperset(result):
        kept = ", ".join(sorted(held)) or "nothing"
        raise CniError(
            Code.DIFFERS, f"prevResult has {', '.join(result) or 'no address'}, the handle holds {kept}"
        )
