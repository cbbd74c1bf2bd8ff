"""Watches for what this agent does not do, and has said how much of it is asked for.

Strategy. Of kinds whose every resource counts no value is read: etcd counts the keys, again after each change. Of the
others each value is looked at once, and only the keys of those that ask for something are kept.
Promises: a change is seen within a second; ten thousand policies cost one number in memory, and a burst of changes a
few questions. What cannot be read is named; a right that is missing is a trouble, and stops nothing. What was found
last holds while the datastore is away.
Does not know: what the limits are, who shows them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping

import msgspec
import structlog

from agent.datastore.resources.bgp_types import BGPConfigurationSpec
from agent.datastore.resources.not_enforced import (
    KIND_LIMITS,
    PAGE,
    KindLimit,
    Spec,
    fields_of,
    limit_troubles,
    read_spec,
    samples,
)
from agent.datastore.resources.validation import NODE_PREFIX
from agent.datastore.state_cache import StateCache
from agent.datastore.unreadable_values import UnreadableValues
from agent.trouble import Trouble, TroubleKind
from ipam.etcd.store import Changed, Store, Versioned
from ipam.failures import Compacted, StoreError, StoreRefused, Unreadable
from ipam.keys import resource_key, resource_prefix

SOON_SECONDS = 0.2
"""Changes within this time are counted together."""
RELIST_SECONDS = 600.0
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.2, 10.0
"""Waits between attempts while the datastore is away, or refuses."""
VALUES_AT_ONCE = 200
MOST_ASKING = 20_000
"""Keys remembered of a kind whose values are looked at; more do not count."""
FELIX, FELIX_PLURAL = "FelixConfiguration", "felixconfigurations"
HOLDS = "what it asked for when it was last readable holds"

log = structlog.get_logger()


class LimitsWatch:
    """What is asked for and not done; a shell."""

    def __init__(self, store: Store, state: StateCache) -> None:
        self._store = store
        self._state = state
        self._counts: dict[str, int] = {}
        """Kind -> how many resources ask for something, where etcd counts."""
        self._asking: dict[str, set[str]] = {limit.kind: set() for limit in KIND_LIMITS if limit.asks}
        """Kind -> the keys of those that do, where values are looked at."""
        self._felix: dict[str, Spec] = {}
        """Etcd key of Felix's settings that hold here -> the fields that have limits."""
        self._bgp: tuple[BGPConfigurationSpec, Spec] = (BGPConfigurationSpec(), {})
        self._unreadable = UnreadableValues()
        self._refused: dict[str, str] = {}
        """Kind -> why it may not be read."""
        self._logged: frozenset[str] = frozenset()

    @property
    def samples(self) -> Mapping[str, int]:
        """Limit -> how many resources ask for it."""
        return samples(self._all_counts(), self._specs())

    def troubles(self) -> Iterator[Trouble]:
        """What is asked for and not done, and what of that is not known."""
        yield from limit_troubles(self._all_counts(), self._specs())
        yield from self._unreadable.troubles()
        if self._refused:
            kinds, (why, *_) = ", ".join(sorted(self._refused)), self._refused.values()
            yield Trouble(
                TroubleKind.LIMIT,
                kinds,
                f"may not be read: {why}",
                "nobody says here whether there are any, and this agent enforces none",
                "give this node's etcd account the right to read them (docs/etcd.md)",
            )

    def _all_counts(self) -> Mapping[str, int]:
        return self._counts | {kind: len(keys) for kind, keys in self._asking.items()}

    def _specs(self) -> Mapping[str, Spec]:
        """The settings as they hold here: a node's own before those of all."""
        present = self._state.bgp_configuration
        if present is not self._bgp[0]:
            self._bgp = present, msgspec.to_builtins(present)
        felix = {
            name: value
            for key in _felix_keys(self._state.node)
            for name, value in self._felix.get(key, {}).items()
        }
        return {FELIX: felix, "BGPConfiguration": self._bgp[1]}

    def say(self) -> None:
        """Log what is asked for since the last call, and what is not any more."""
        asked = frozenset(name for name, count in self.samples.items() if count)
        for name in sorted(asked - self._logged):
            log.warning("limits.not_enforced", what=name, count=self.samples[name], see=PAGE)
        for name in sorted(self._logged - asked):
            log.info("limits.not_asked_for_any_more", what=name)
        self._logged = asked

    async def run(self) -> None:
        """Watch until cancelled. After a failure it may be called again."""
        async with asyncio.TaskGroup() as group:
            for limit in KIND_LIMITS:
                group.create_task(self._keep(limit.kind, self._round_of(limit)))
            group.create_task(self._keep(FELIX, lambda: self._look(FELIX, FELIX_PLURAL, self._take_felix)))

    def _round_of(self, limit: KindLimit) -> Callable[[], Awaitable[None]]:
        asks = limit.asks
        if asks is None:
            return lambda: self._count(limit)

        def take(key: str, name: str, spec: Spec) -> None:
            keys = self._asking[limit.kind]
            if not asks(name, spec):
                keys.discard(key)
            elif len(keys) < MOST_ASKING:
                keys.add(key)

        return lambda: self._look(limit.kind, limit.plural, take)

    async def _keep(self, kind: str, one_round: Callable[[], Awaitable[None]]) -> None:
        wait = FIRST_WAIT_SECONDS
        while True:
            try:
                async with asyncio.timeout(RELIST_SECONDS * random.uniform(0.75, 1.0)):
                    await one_round()
            except (TimeoutError, Compacted):
                wait = FIRST_WAIT_SECONDS
            except StoreError as error:
                if isinstance(error, StoreRefused) and kind not in self._refused:
                    self._refused[kind] = str(error)
                    log.warning("limits.may_not_be_read", kind=kind, why=str(error))
                    self.say()
                wait = min(wait * 2, LONGEST_WAIT_SECONDS)
            await asyncio.sleep(wait * random.uniform(0.75, 1.0))

    def _known(self, kind: str) -> None:
        if self._refused.pop(kind, None) is not None:
            log.info("limits.may_be_read", kind=kind)
        self.say()

    async def _count(self, limit: KindLimit) -> None:
        prefix = resource_prefix(limit.plural)
        found = await self._store.count(prefix)
        self._counts[limit.kind] = found.count
        self._known(limit.kind)
        async for event in self._store.watch(prefix, found.revision + 1):
            if isinstance(event, Changed) and event.revision > found.revision:
                await asyncio.sleep(SOON_SECONDS)
                found = await self._store.count(prefix)
                self._counts[limit.kind] = found.count
                self.say()

    async def _look(self, kind: str, plural: str, take: Callable[[str, str, Spec], None]) -> None:
        """Look at each value of a kind, and then at each that changes."""
        prefix = resource_prefix(plural)
        listing = await self._store.list(prefix)
        for key in self._held(prefix) - listing.values.keys():
            self._forget(kind, key)
        for number, value in enumerate(listing.values.values(), 1):
            self._read(kind, plural, value, take)
            if number % VALUES_AT_ONCE == 0:
                await asyncio.sleep(0)
        self._known(kind)
        async for event in self._store.watch(prefix, listing.revision + 1):
            if isinstance(event, Changed):
                if event.value is None:
                    self._forget(kind, event.key)
                else:
                    self._read(kind, plural, event.value, take)
                self.say()

    def _held(self, prefix: str) -> set[str]:
        """The keys below a prefix of which anything is remembered."""
        keys = {
            *self._felix,
            *self._unreadable.keys(),
            *(key for some in self._asking.values() for key in some),
        }
        return {key for key in keys if key.startswith(prefix)}

    def _read(self, kind: str, plural: str, value: Versioned, take: Callable[[str, str, Spec], None]) -> None:
        try:
            name, spec = read_spec(kind, plural, value)
        except Unreadable as error:
            self._unreadable.note(value.key, error, HOLDS)
        else:
            self._unreadable.clear(value.key)
            take(value.key, name, spec)

    def _forget(self, kind: str, key: str) -> None:
        self._unreadable.clear(key)
        self._felix.pop(key, None)
        self._asking.get(kind, set()).discard(key)

    def _take_felix(self, key: str, name: str, spec: Spec) -> None:
        """Felix's settings of another node are none of ours."""
        if key in _felix_keys(self._state.node):
            self._felix[key] = {
                limit.field: spec[limit.field] for limit in fields_of(FELIX) if limit.field in spec
            }


def _felix_keys(node: str) -> tuple[str, str]:
    """The keys of Felix's settings that hold on a node, the stronger one last."""
    return resource_key(FELIX_PLURAL, "default"), resource_key(FELIX_PLURAL, f"{NODE_PREFIX}{node}")
