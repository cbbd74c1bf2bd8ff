"""What every kind of kernel object has: how it is read, compared, written, removed and explained to people.

A kind is one subclass in a file of this folder, listed in `all_kinds`, with its methods in `kernel/protocol.py` and
its place in the order of `Kind`; the reconciler, the report and the dry run loop over the kinds.
Promises: applying a delta to the actual objects gives the desired ones. Does not know: when something is read or
written, what was refused before.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar

from agent.dataplane.kernel.dataplane_objects import Kind
from agent.dataplane.kernel.protocol import Kernel, Refusal
from agent.dataplane.kinds.states import ActualState, Comparison, DesiredState
from agent.netlink.kernel_errors import KernelError, Unsupported
from agent.netlink.objects import RouteKey

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Delta(Generic[K, V]):
    """What must happen so that the actual objects equal the desired ones."""

    create: Mapping[K, V]
    replace: Mapping[K, V]
    """The values that should be; what is there now is in the actual state."""
    delete: Mapping[K, V]
    """The values that are there now."""

    @property
    def wanted(self) -> dict[K, V]:
        """What is to be created and then what is to be replaced."""
        return {**self.create, **self.replace}

    @property
    def withdrawn(self) -> Collection[K]:
        """Of the deletions those that somebody asked for, so that no guard holds them back."""
        return ()

    @property
    def steps(self) -> int:
        """How many objects change."""
        return len(self.create) + len(self.replace) + len(self.delete)

    def __bool__(self) -> bool:
        return bool(self.create or self.replace or self.delete)


def difference(desired: Mapping[K, V], actual: Mapping[K, V], *, complete: bool = True) -> Delta[K, V]:
    """Compare two maps that have the kernel's own keys.

    Before the facts are `complete` only additions are planned, so that nothing that works is lost to half-read facts.
    """
    create: dict[K, V] = {}
    replaced: dict[K, V] = {}
    for key, value in desired.items():
        if key not in actual:
            create[key] = value
        elif actual[key] != value:
            replaced[key] = value
    if not complete:
        return Delta(create, {}, {})
    return Delta(create, replaced, {key: value for key, value in actual.items() if key not in desired})


def shared(found: Mapping[K, V], desired: Mapping[K, V]) -> dict[K, V]:
    """What was found, by the desired object where they are equal: to compare them again is then nearly free."""
    return {key: same if (same := desired.get(key)) == value else value for key, value in found.items()}


class Verb(Enum):
    """What is done with an object; part of the step that a refusal holds back."""

    ADD = auto()
    """Put where nothing is known to be; what is there unseen stays."""
    PUT = auto()
    REMOVE = auto()


@dataclass(frozen=True, slots=True)
class Batch(Generic[K, V]):
    """Objects that are put in one go."""

    objects: Mapping[K, V]
    send: Callable[[Sequence[V]], Awaitable[tuple[Refusal, ...]]]
    verb: Verb = Verb.PUT
    at_once: Callable[[], Awaitable[bool]] | None = None
    """Carries all of it out in one step, or says that the kernel cannot."""


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One change of the next pass, or something desired that cannot be carried out now: for people."""

    kind: str
    verb: str
    """`create`, `replace`, `delete`; `wait` and `conflict` for what is desired and not done."""
    what: str
    was: str
    """What is there now; empty for nothing."""
    why: str


REASONS = {
    "create": "other nodes are reached by it",
    "replace": "it differs from what is desired",
    "delete": "no pool or node asks for it any more",
}


class ObjectKind(ABC, Generic[K, V]):
    """A kind whose objects may be many: they are written in batches and logged as counts."""

    kind: ClassVar[Kind]
    is_bulk: ClassVar[bool] = True

    def __init__(self, kernel: Kernel, log: Any) -> None:
        self._kernel = kernel
        self._log = log

    @property
    def name(self) -> str:
        """As people, metrics and logs call it."""
        return self.kind.name.lower()

    @abstractmethod
    async def read(self, desired: DesiredState) -> Mapping[K, V]:
        """All objects that the kernel holds, others' too where they may be in our place. Raises KernelError."""

    async def read_new(self, desired: DesiredState, actual: ActualState) -> Mapping[K, V]:
        """Objects that came since the last reading, where that can be known. Raises KernelError."""
        return {}

    async def read_some(self, keys: Collection[K]) -> Mapping[K, V]:
        """Those of these objects that exist, where the kernel can be asked for them. Raises KernelError."""
        return {}

    @abstractmethod
    async def diff(self, given: Comparison) -> Delta[K, V]:
        """What is to be done; pure but for memory, and may let others run between pieces of a long comparison."""

    def batches(self, delta: Delta[K, V], actual: Mapping[K, V]) -> Iterator[Batch[K, V]]:
        """The puts of a delta, in their order."""
        yield Batch(delta.wanted, self.put)

    @abstractmethod
    async def put(self, values: Sequence[V]) -> tuple[Refusal, ...]:
        """Create or replace. Raises KernelError when none could be tried."""

    async def remove(self, values: Sequence[V]) -> tuple[Refusal, ...]:
        """Delete; refused where a kind's objects are others', which we only change.

        Raises KernelError when none could be tried.
        """
        why = f"objects of kind {self.name} are never removed"
        return tuple(Refusal(value, why, permanent=True) for value in values)

    async def may_go(self, unwanted: Mapping[K, V], now: float) -> Mapping[K, V]:
        """Of what is to be removed, in every pass, what may go at `now` (monotonic seconds). Raises KernelError."""
        return unwanted

    def next_at(self, now: float) -> float | None:
        """When something that is to be removed may go, if not now."""
        return None

    def is_drift(self, before: V | None, found: V | None) -> bool:
        """Whether a reading that differs from what was known (None: nothing) means that others changed one of ours."""
        return True

    def count(self, objects: Mapping[K, V]) -> int:
        """How many of these are ours."""
        return len(objects)

    def text(self, value: V) -> str:
        """As ip(8), bridge(8) or sysctl(8) say it, near enough."""
        return str(value)

    def explain(
        self, delta: Delta[K, V], given: Comparison, why: Callable[[RouteKey], str]
    ) -> Iterator[PlannedStep]:
        """The steps of a delta in words; `why` says of a desired route why it is."""
        actual = given.actual.of(self.kind)
        for verb, objects in (("create", delta.create), ("replace", delta.replace), ("delete", delta.delete)):
            for key, value in objects.items():
                what = self.text(value) if verb != "delete" else ""
                was = self.text(actual[key]) if verb != "create" and key in actual else ""
                yield PlannedStep(self.name, verb, what, was, self.reason(verb, key, delta, why))

    def reason(self, verb: str, key: K, delta: Delta[K, V], why: Callable[[RouteKey], str]) -> str:
        """Why a step is planned."""
        return REASONS[verb]


class SingleKind(ObjectKind[K, V]):
    """A kind of few objects, each written by itself and logged by name; some kernels lack it."""

    is_bulk = False

    @abstractmethod
    def feature(self, value: V) -> str:
        """What is not in force where the kernel has no such object."""

    @abstractmethod
    async def put_one(self, value: V, was: V | None) -> None:
        """Create or replace one object, in the place of `was`. Raises Unsupported, KernelError."""

    async def remove_one(self, value: V) -> None:
        """Delete one object. Raises Unsupported where a kind's objects are others', KernelError."""
        raise Unsupported(f"objects of kind {self.name} are never removed")

    def batches(self, delta: Delta[K, V], actual: Mapping[K, V]) -> Iterator[Batch[K, V]]:
        """One batch an object."""
        for key, value in delta.wanted.items():
            yield Batch({key: value}, partial(self.put, was=actual.get(key)))

    async def put(self, values: Sequence[V], was: V | None = None) -> tuple[Refusal, ...]:
        """Create or replace, in the place of `was`."""
        return await _one_by_one(values, lambda value: self.put_one(value, was))

    async def remove(self, values: Sequence[V]) -> tuple[Refusal, ...]:
        """Delete."""
        return await _one_by_one(values, self.remove_one)


async def _one_by_one(values: Sequence[V], call: Callable[[V], Awaitable[None]]) -> tuple[Refusal, ...]:
    refusals: list[Refusal] = []
    for value in values:
        try:
            await call(value)
        except KernelError as error:
            refusals.append(Refusal(value, str(error), permanent=isinstance(error, Unsupported)))
    return tuple(refusals)
