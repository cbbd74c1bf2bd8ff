"""Reads sysctls into the picture: all that are wished, those of new devices, and those that somebody wrote to.

Promises: a write to one switch costs the reading of that one, however many pods there are; what it changed is counted
and logged. Does not know: which value is right, how a write is heard.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from agent.dataplane.kernel.ownership import Ownership
from agent.dataplane.kernel.protocol import Kernel
from agent.dataplane.kinds.diff import ActualState, DesiredState
from agent.dataplane.report import Counters
from agent.netlink.objects import Kind, Sysctl


class SysctlReader:
    """Those of one reconciler."""

    def __init__(
        self, kernel: Kernel, picture: ActualState, tally: Counters, ownership: Ownership, log: Any
    ) -> None:
        self._kernel = kernel
        self._picture = picture
        self._tally = tally
        self._ownership = ownership
        self._log = log
        self._doubted: dict[str, Sysctl] = {}
        """What was known of switches that were written to since; none but known ones."""

    async def differ(self, names: Iterable[str]) -> bool:
        """Somebody, perhaps ourselves, wrote to these: whether any is not as it was known. Raises KernelError."""
        found = await self._kernel.sysctls([name for name in names if name in self._picture.sysctls])
        known = self._picture.sysctls
        changed = [name for name, value in found.items() if name in known and known[name] != value]
        self._doubted |= {name: known.pop(name) for name in changed}
        return bool(changed)

    async def read_all(self, wish: DesiredState) -> None:
        """All that are wished. Raises KernelError."""
        self._picture.sysctls.update(self._doubted)  # what is compared with what is found
        self._doubted.clear()
        found = await self._kernel.sysctls(tuple(wish.dataplane.sysctls), only=True)
        self._picture.sysctls = _shared(found, wish.dataplane.sysctls)

    async def read_missing(self, wish: DesiredState) -> None:
        """Those of devices that came since the last reading, and those in doubt. Raises KernelError."""
        known = self._picture.sysctls
        missing = [name for name in wish.dataplane.sysctls if name not in known]
        before, self._doubted = self._doubted, {}
        if not missing:
            return
        found = await self._kernel.sysctls(missing)
        known.update(_shared(found, wish.dataplane.sysctls))
        after = {name: value for name, value in found.items() if name in before}
        before = {name: value for name, value in before.items() if name in after}
        self._tally.read(Kind.SYSCTL, before, after, self._ownership, self._log)


def _shared(found: Mapping[str, Sysctl], wished: Mapping[str, Sysctl]) -> dict[str, Sysctl]:
    """What was found, by the wished object where they are equal: to compare them again is then nearly free."""
    return {name: same if (same := wished.get(name)) == value else value for name, value in found.items()}
