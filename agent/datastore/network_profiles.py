"""The profile of each CNI network that this node has endpoints of: made once, where there is none.

Promises: one guarded write, so a profile that is there is never changed; what is known to be there costs an ADD
nothing. One that cannot be made is a trouble and keeps no pod from its network: only Felix reads it.
Does not know: endpoints, what Felix makes of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping

from agent.clock import Clock
from agent.datastore.resources.endpoint_form import profile, profile_key
from agent.trouble import Trouble, TroubleKind
from ipam.etcd.store import Put, Store, Unchanged
from ipam.failures import IpamError

MOST_NETWORKS = 128
"""Networks whose profiles are remembered and looked after; a node has one or a few."""
RFC_3339 = "%Y-%m-%dT%H:%M:%SZ"


class NetworkProfiles:
    """Owns what is known of them; a shell."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._there: set[str] = set()
        """Networks whose profile was there when it was last looked at."""
        self._refused: dict[str, str] = {}
        """Networks whose profile could not be made -> why."""
        self._writing = asyncio.Lock()

    def forget(self) -> None:
        """The datastore is older than it was, or another one."""
        self._there.clear()

    async def ensure(self, network: str, orchestrator: str, seconds: float) -> None:
        """Have a network's profile made unless it is there, within so long. A failure is a trouble until `keep`."""
        if network in self._there or network in self._refused or len(self._there) >= MOST_NETWORKS:
            return
        try:
            async with asyncio.timeout(seconds), self._writing:  # of many pods at once the first one makes it
                if network not in self._there and network not in self._refused:
                    await self._make(network, orchestrator)
        except TimeoutError:
            self._refuse(network, f"no answer within {seconds:g} s")

    async def keep(self, wanted: Mapping[str, str]) -> None:
        """Look whether the profiles of these networks (-> orchestrator) are there, and make those that are not.

        Of other networks nothing is remembered. Raises StoreError when the datastore cannot be read.
        """
        looked = dict(sorted(wanted.items())[:MOST_NETWORKS])
        async with self._writing:
            read = await self._store.get_many([*map(profile_key, looked)]) if looked else {}
            self._there = {network for network in looked if profile_key(network) in read}
            for network in self._refused.keys() - (looked.keys() - self._there):
                del self._refused[network]
            for network in looked.keys() - self._there:
                await self._make(network, looked[network])

    async def _make(self, network: str, orchestrator: str) -> None:
        key = profile_key(network)
        document = profile(network, orchestrator, self._clock.wall().strftime(RFC_3339))
        try:
            await self._store.commit((Unchanged(key, 0),), (Put(key, document),))
        except IpamError as error:
            self._refuse(network, str(error))
        else:
            self._refused.pop(network, None)
            self._there.add(network)  # ours, or somebody was faster

    def _refuse(self, network: str, why: str) -> None:
        self._refused[network] = why

    def troubles(self) -> Iterator[Trouble]:
        """The profiles that could not be made."""
        for network, why in sorted(self._refused.items()):
            yield Trouble(
                TroubleKind.PROFILE,
                profile_key(network),
                f"the profile of network {network} cannot be made: {why}",
                "a Felix, here or after going back to Calico, drops what comes to this network's pods",
                "give this node's etcd account the right to write it (docs/etcd.md)",
            )
