"""Our IPAM for other plugins (bridge, ptp, macvlan …), which call it as `tortie-ipam`: addresses and nothing else.

Promises: as for pods: all or nothing, again the same, DEL always succeeds. Nothing is written but the addresses and
their handle, whose words let GC find them. Does not know: what the other plugin does with them.
"""

from __future__ import annotations

import asyncio

from agent.cni.add import AddVerb
from agent.cni.check import result_addresses
from agent.cni.delete import Answer, DeleteVerb
from agent.cni.plugin.options import CniError, Code
from agent.cni.plugin.results import render_addresses
from agent.cni.plugin.spec import Request
from agent.cni.release_journal import Release
from ipam.address_text import text_of
from ipam.failures import IpamError


class Delegated:
    """ADD, DEL and CHECK of addresses only."""

    def __init__(self, attaching: AddVerb, detaching: DeleteVerb) -> None:
        self._attaching = attaching
        self._detaching = detaching

    async def add(self, request: Request, release: Release) -> bytes:
        """The abbreviated result. Raises CniError."""
        await self._detaching.settle_releases(request)
        self._detaching.must_be_ready()
        try:
            assigned = await self._attaching.assign(request)
        except asyncio.CancelledError:
            await self._detaching.give_back(request, release, lambda: None)
            raise
        addresses = [item.address for item in assigned]
        return render_addresses(addresses, request.options, request.version)

    async def delete(self, request: Request, release: Release, answer: Answer) -> None:
        """Give the addresses back, or write down that it is to be done. Raises CniError."""
        await self._detaching.give_back(request, release, answer)

    async def check(self, request: Request) -> None:
        """Every address that the result names for us is still ours. Raises CniError."""
        try:
            held = {text_of(address) for address in await self._attaching.held(request)}
        except IpamError as error:
            raise CniError(Code.TRY_AGAIN, str(error)) from error
        result = result_addresses(request.previous or {}, request.interface)
        missing = [address for address in result if address not in held]
        if missing or not held:
            kept = ", ".join(sorted(held)) or "nothing"
            raise CniError(
                Code.DIFFERS, f"prevResult has {', '.join(result) or 'no address'}, the handle holds {kept}"
            )
