"""What the workload filter does: whether it is in force, and how many packets it has dropped, by reason.

Promises: a count never falls, though the kernel's begin anew with every table; reading it reads no set.
Does not know: what is in the filter, or why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agent.dataplane.kernel.filter_rules import REASONS
from agent.dataplane.kernel.filter_table import NAME
from agent.dataplane.kernel.protocol import Kernel
from agent.netlink.kernel_errors import KernelError
from agent.trouble import Trouble, TroubleKind

SECONDS_BETWEEN = 5.0
"""Readings of the counters."""
LOSS = "a pod can send from any address, speak BGP as this node and inject packets into its tunnels"
CURE = "load nf_tables (a kernel with its inet family), or set workloads.filter to false to accept that"


@dataclass(frozen=True, slots=True)
class FilterState:
    """The filter as the last pass left it."""

    wanted: bool
    in_force: bool
    refused: str | None = None
    """The kernel's reason, while it takes no change."""


class DropCounters:
    """Counts that go on from table to table."""

    def __init__(self) -> None:
        self._last: Mapping[str, int] = {}
        self._before: dict[str, int] = dict.fromkeys(REASONS, 0)
        """Counted by tables that are gone."""

    def take(self, found: Mapping[str, int]) -> None:
        """The kernel's counts of this moment; one that is smaller than before began anew."""
        for reason, last in self._last.items():
            if found.get(reason, 0) < last:
                self._before[reason] += last
        self._last = found

    @property
    def totals(self) -> dict[str, int]:
        """Reason -> packets since the agent's start, and those that the table had counted before it."""
        return {reason: before + self._last.get(reason, 0) for reason, before in self._before.items()}


class FilterMonitor:
    """Reads the counters now and then; has the filter's troubles."""

    def __init__(self, kernel: Kernel, state: Callable[[], FilterState], log: Any) -> None:
        """`state` answers what the last pass left."""
        self._kernel = kernel
        self._state = state
        self._log = log
        self._counters = DropCounters()
        self._failed = False

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            await self.read()
            await asyncio.sleep(SECONDS_BETWEEN)

    async def read(self) -> None:
        """Read the counters once; a failure is told once and leaves the last ones."""
        try:
            self._counters.take(await self._kernel.filter_drops())
        except KernelError as error:
            if not self._failed:
                self._log.warning("filter.counters_unread", why=str(error))
            self._failed = True
        else:
            self._failed = False

    @property
    def dropped(self) -> Mapping[str, int]:
        """Reason -> packets dropped, as of the last reading."""
        return self._counters.totals

    def status(self) -> dict[str, Any]:
        """For people: `tortie node status`."""
        state = self._state()
        where = "in force" if state.in_force else "not in force"
        dropped = {reason: count for reason, count in self.dropped.items() if count}
        return {"state": where if state.wanted else "off (workloads.filter)", "dropped": dropped}

    def troubles(self) -> Iterator[Trouble]:
        """What of the filter is wanted and not in force."""
        state = self._state()
        if not state.wanted:
            return
        if state.refused is not None:
            loss = LOSS if not state.in_force else "workloads that came since then cannot send"
            yield Trouble(
                TroubleKind.FILTER, f"table {NAME}", state.refused, loss, CURE if not state.in_force else ""
            )
        elif not state.in_force:
            evidence = "not made before the datastore was read, so that no workload is cut off"
            yield Trouble(TroubleKind.FILTER, f"table {NAME}", evidence, LOSS)
