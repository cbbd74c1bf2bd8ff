"""Watches on etcd: streams that are asked for signs of life and resumed behind the last event that they delivered.

Promises: nothing is lost and nothing invented across reconnects; a revision that goes backwards, or another cluster
(a restored backup), ends a watch like a compaction.
Does not know: what is watched.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from grpc import aio

from ipam.etcd.calls import Calls
from ipam.etcd.etcd_messages import end_of, rpc, versioned
from ipam.etcd.store import Changed, WatchEvent, WatchProgress
from ipam.failures import Compacted, StoreUnavailable, WentBack

HEARTBEAT_SECONDS = 5.0
"""A watch that has been silent this long asks for a progress notice …"""
SILENCE_SECONDS = 15.0
"""… and is given up when none came by then."""
FIRST_WAIT_SECONDS = 0.05
LONGEST_WAIT_SECONDS = 1.0
PROGRESS_REQUEST = b"\x1a\x00"
"""WatchRequest field 3 (progress_request), empty: newer than etcd3's messages, so given as bytes."""
HAS_LEADER = (("hasleader", "true"),)
"""With it etcd ends a watch on a member that is cut off from the others, which would else be silent for ever."""

Answer = TypeVar("Answer")


@dataclass(slots=True)
class WatchPosition:
    """The next revision that a watch or a listing needs, and the cluster that it is in."""

    next_revision: int
    cluster: int | None = None

    def must_stay_in(self, cluster: int) -> int:
        """Note the id of the cluster that answered; a restored backup has another one. Raises WentBack."""
        if self.cluster is None:
            self.cluster = cluster
        if cluster != self.cluster:
            raise WentBack(f"etcd is another cluster now ({cluster:x}, not {self.cluster:x})")
        return cluster


class Watches:
    """The watches of one store."""

    def __init__(self, calls: Calls, heartbeat_seconds: float, silence_seconds: float) -> None:
        self._calls = calls
        self._heartbeat_seconds = heartbeat_seconds
        self._silence_seconds = silence_seconds

    async def watch(self, prefix: str, start: int, cluster: int | None) -> AsyncIterator[WatchEvent]:
        """See Store; `cluster` is where the list was read that this watch goes on from."""
        position = WatchPosition(start, cluster)
        wait = FIRST_WAIT_SECONDS
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._calls.config.patience_seconds
        while True:
            try:
                async with aclosing(self._watch_once(prefix, position)) as events:
                    async for event in events:
                        position.next_revision = max(position.next_revision, event.revision + 1)
                        wait, give_up_at = (
                            FIRST_WAIT_SECONDS,
                            loop.time() + self._calls.config.patience_seconds,
                        )
                        yield event
            except StoreUnavailable:
                if self._calls.channels.closed.is_set() or loop.time() > give_up_at:
                    raise
            self._calls.channels.watch_restarts += 1
            await asyncio.sleep(wait * random.uniform(0.75, 1.0))
            wait = min(wait * 2, LONGEST_WAIT_SECONDS)

    async def _watch_once(self, prefix: str, position: WatchPosition) -> AsyncGenerator[WatchEvent, None]:
        """The events of one gRPC stream, from its creation on; ends, or raises StoreUnavailable, when it breaks."""
        await self._calls.ensure_token()
        member, start = await self._calls.channels.ready(), position.next_revision
        call = member.stub("Watch").Watch(metadata=(*self._calls.metadata(), *HAS_LEADER))
        try:
            create = rpc.WatchCreateRequest(
                key=prefix.encode(),
                range_end=end_of(prefix.encode()),
                start_revision=start,
                progress_notify=True,
            )
            await self._within(call.write(rpc.WatchRequest(create_request=create)), self._silence_seconds)
            async with aclosing(self._answers(call)) as answers:
                async for answer in answers:
                    _check(answer, prefix, start)
                    position.must_stay_in(answer.header.cluster_id)
                    for event in answer.events:
                        yield _changed(event)
                    if not answer.events and not answer.created:
                        yield WatchProgress(answer.header.revision)
        except aio.AioRpcError as error:
            if self._calls.forget_token(error):
                return
            raise self._calls.failed(member, error) from error
        except StoreUnavailable:
            self._calls.channels.failed(member)
            raise
        finally:
            call.cancel()

    async def _answers(self, call: Any) -> AsyncGenerator[Any, None]:
        """The messages of one stream; a silent server is asked for a sign of life, and given up if it gives none.

        Raises StoreUnavailable.
        """
        reading: asyncio.Task[Any] | None = None
        silent = 0.0
        try:
            while True:
                reading = reading or asyncio.ensure_future(call.read())
                done, _ = await asyncio.wait({reading}, timeout=self._heartbeat_seconds)
                if not done:
                    silent += self._heartbeat_seconds
                    if silent >= self._silence_seconds:
                        raise StoreUnavailable(f"etcd has been silent for {silent:g} s")
                    question = rpc.WatchRequest()
                    question.MergeFromString(PROGRESS_REQUEST)
                    await self._within(call.write(question), self._heartbeat_seconds)
                    continue
                if reading.cancelled():  # grpc's way to say that the channel was closed under the call
                    raise StoreUnavailable("the connection to etcd was closed")
                answer = reading.result()
                reading, silent = None, 0.0
                if answer is aio.EOF:
                    return
                yield answer
        finally:
            if reading is not None:
                reading.cancel()
                with suppress(asyncio.CancelledError, aio.AioRpcError):
                    await reading

    async def _within(self, work: Awaitable[Answer], seconds: float) -> Answer:
        """Write to a stream within so many seconds. Raises StoreUnavailable.

        grpc by itself never ends a write whose channel was closed before it began.
        """
        writing = asyncio.ensure_future(work)
        closing = asyncio.ensure_future(self._calls.channels.closed.wait())
        try:
            done, _ = await asyncio.wait(
                {writing, closing}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if closing in done or (writing in done and writing.cancelled()):
                raise StoreUnavailable("the connection to etcd was closed")
            if writing not in done:
                raise StoreUnavailable(f"etcd took nothing for {seconds:g} s")
            return writing.result()
        except asyncio.InvalidStateError as error:
            raise StoreUnavailable("etcd ended the stream") from error
        finally:
            closing.cancel()
            writing.cancel()
            await asyncio.gather(closing, writing, return_exceptions=True)


def _check(answer: Any, prefix: str, start: int) -> None:
    """Raises Compacted, WentBack or StoreUnavailable if an answer on a watch stream says so."""
    if answer.compact_revision or (answer.canceled and "compacted" in answer.cancel_reason):
        raise Compacted(f"revision {start} of {prefix} is gone (kept from {answer.compact_revision})")
    if answer.created and answer.header.revision < start - 1:
        raise WentBack(f"etcd went back from revision {start - 1} to {answer.header.revision}")
    if answer.canceled:
        raise StoreUnavailable(f"the watch of {prefix} was ended: {answer.cancel_reason or 'no reason'}")


def _changed(event: Any) -> Changed:
    deleted = event.type == 1  # Event.EventType.DELETE
    value = None if deleted else versioned(event.kv)
    return Changed(event.kv.key.decode(), value, event.kv.mod_revision)
