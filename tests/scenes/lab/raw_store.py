"""A lab's datastore as anybody may write it: any key, any bytes. Run as a module it is the half inside the lab.

Keys are text, with bytes that are no UTF-8 as lone surrogates; between the halves go lines of JSON.
"""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

from agent.lab import lab_processes
from agent.lab.lab_plan import LabPlan, etcd_endpoint
from ipam.etcd.client import EtcdStore
from ipam.etcd.etcd_config import EtcdConfig
from ipam.etcd.store import Committed, Delete, Operation, Put
from tests.fixtures import program

MOST_AT_ONCE, MOST_BYTES_AT_ONCE = 100, 1_000_000
"""Of one transaction: etcd takes 128 operations and 1.5 MiB."""


class RawStore:
    """The half outside."""

    def __init__(self, inside: TextIO) -> None:
        self._inside = inside

    def write(self, values: Mapping[str, bytes | None]) -> dict[str, int]:
        """Write values, or (None) delete keys. The revision of each."""
        question = {key: _packed(value) for key, value in values.items()}
        revisions: dict[str, int] = self._ask({"write": question})
        return revisions

    def below(self, prefix: str) -> dict[str, bytes]:
        """All values below a prefix."""
        return {key: base64.b64decode(value) for key, value in self._ask({"list": prefix}).items()}

    def _ask(self, question: object) -> Any:
        self._inside.write(json.dumps(question) + "\n")
        self._inside.flush()
        return json.loads(self._inside.readline())


def _packed(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()


@contextmanager
def raw_store(plan: LabPlan) -> Iterator[RawStore]:
    """The datastore of a lab that is up."""
    words = lab_processes.inside(plan.fabric, [sys.executable, "-m", __name__, etcd_endpoint()])
    ours, theirs = socket.socketpair()
    with ours, open(2, "wb", closefd=False) as errors:
        with theirs:
            process = program.spawn(words, theirs, theirs, errors)
        try:
            with ours.makefile("rw") as both:
                yield RawStore(both)
        finally:
            process.close()


async def _answer(store: EtcdStore, question: dict[str, Any]) -> dict[str, Any]:
    if "list" in question:
        listing = await store.list(question["list"])
        return {key: _packed(value.value) for key, value in listing.values.items()}
    revisions: dict[str, Any] = {}
    for operations in _transactions(question["write"].items()):
        outcome = await store.commit((), operations)
        assert isinstance(outcome, Committed)
        revisions |= {operation.key: outcome.revision for operation in operations}
    return revisions


def _transactions(values: Iterable[tuple[str, str | None]]) -> Iterator[list[Operation]]:
    some: list[Operation] = []
    size = 0
    for key, packed in values:
        value = None if packed is None else base64.b64decode(packed)
        if some and (len(some) == MOST_AT_ONCE or size + len(value or b"") > MOST_BYTES_AT_ONCE):
            yield some
            some, size = [], 0
        some.append(Delete(key) if value is None else Put(key, value))
        size += len(value or b"")
    yield some


async def _serve(endpoint: str) -> None:
    store = EtcdStore(EtcdConfig((endpoint,)))
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await _answer(store, json.loads(line))), flush=True)


def main() -> None:
    """The half inside."""
    asyncio.run(_serve(sys.argv[1]))


if __name__ == "__main__":
    main()
