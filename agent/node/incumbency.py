"""Which of two machines with one id is the node: the one that has the record, as long as it answers.

Machines that were cloned have one /etc/machine-id, and perhaps one host name. A machine that finds the record with
another life than its own has booted since, or is another machine. So it asks, in the record: it writes its life as a
claim, and the machine that has the record, if it lives, takes that out. A claim that stands for CLAIM_SECONDS is
granted.
Promises: a handful of writes, each guarded; a machine that was answered stays out until its agent starts anew. The one
that has the record never waits. Does not know: addresses, other fields of the record.
"""

from __future__ import annotations

import json
from typing import Any

import structlog

from agent.clock import Clock
from agent.node.machine import (
    CLAIM_ANNOTATION,
    LIFE_ANNOTATION,
    annotations_in,
    other_machine,
    text_in,
)
from ipam.etcd.store import Committed, Put, Store, Unchanged, Versioned
from ipam.failures import Unreadable
from ipam.stored_json import read_stored, stored_object

CLAIM_SECONDS = 3.0
"""A thousand times what an agent takes to answer; every boot waits so long before its node is itself again."""

log = structlog.get_logger()


class Incumbency:
    """This machine's part in it; a shell."""

    def __init__(self, store: Store, key: str, machine: str, life: str, clock: Clock) -> None:
        """`key` is the record's; without a `life` the record bears none, and nobody is asked."""
        self._store = store
        self._key = key
        self._machine = machine
        self._life = life
        self._clock = clock
        self._claimed_at: float | None = None
        self._answered_by = ""
        """The life of the machine that has answered."""

    def other_life(self, annotations: object) -> str:
        """The life of another machine, or of an earlier boot, that has the record; empty: ours, or nobody's."""
        found = text_in(annotations, LIFE_ANNOTATION)
        if not self._life or found == self._life or other_machine(annotations, self._machine) is not None:
            return ""
        return found

    def is_asking(self, annotations: object) -> bool:
        """Whether it is not decided yet who has the record."""
        other = self.other_life(annotations)
        return bool(other) and other != self._answered_by

    def why_not_ours(self, annotations: object) -> str | None:
        """A sentence, while the record is another life's."""
        other = self.other_life(annotations)
        if not other:
            return None
        if other == self._answered_by:
            return "another machine with the same id (a clone of this one, or its original) lives and is the node"
        return "its record is from an earlier boot, or of another machine with the same id: which, is being asked"

    def is_challenged(self, annotations: object) -> bool:
        """Whether the record is ours, and another machine asks whether we live."""
        return (
            bool(self._life)
            and text_in(annotations, LIFE_ANNOTATION) == self._life
            and text_in(annotations, CLAIM_ANNOTATION) not in ("", self._life)
        )

    def sign(self, raw: dict[str, Any]) -> None:
        """Have a record bear this machine's life, and nobody's claim."""
        if self._life:
            annotations = {**(raw["metadata"].get("annotations") or {}), LIFE_ANNOTATION: self._life}
            annotations.pop(CLAIM_ANNOTATION, None)
            raw["metadata"]["annotations"] = annotations

    async def step(self) -> None:
        """Ask, look for an answer, or take the record. Raises StoreError."""
        current = await self._store.get(self._key)
        if current is None:
            return
        try:
            raw = read_stored(current, stored_object)
        except Unreadable:
            return  # it is mended by whoever writes it next
        annotations = annotations_in(raw)
        if not self.is_asking(annotations):
            self._claimed_at = None
            return
        now = self._clock.now()
        if self._claimed_at is None:
            raw["metadata"]["annotations"][CLAIM_ANNOTATION] = self._life
            if await self._is_written(current, raw):
                self._claimed_at = now
                log.info("node.claimed", key=self._key, seconds=CLAIM_SECONDS)
        elif text_in(annotations, CLAIM_ANNOTATION) != self._life:
            self._answered_by = text_in(annotations, LIFE_ANNOTATION)
            log.warning("node.other_machine_lives", key=self._key, its_life=self._answered_by)
        elif now - self._claimed_at >= CLAIM_SECONDS:
            self.sign(raw)
            if await self._is_written(current, raw):
                self._claimed_at = None
                log.info("node.claim_granted", key=self._key)

    async def _is_written(self, current: Versioned, raw: dict[str, Any]) -> bool:
        guard, put = Unchanged(self._key, current.revision), Put(self._key, json.dumps(raw).encode())
        return isinstance(await self._store.commit((guard,), (put,)), Committed)
