"""What is made of a member's answers: asked again where that may help and may not hurt, and for how long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc import aio

from ipam.etcd.calls import ELECTION_PAUSE_SECONDS
from ipam.etcd.client import EtcdStore
from ipam.etcd.etcd_config import EtcdConfig
from ipam.etcd.etcd_messages import rpc
from ipam.etcd.store import Committed, Put, Unchanged
from ipam.failures import StoreRefused, StoreUnavailable

ELECTION = (grpc.StatusCode.UNAVAILABLE, "etcdserver: leader changed")
"""What etcd 3.4 to 3.6 answers to a read or a proposal that was under way when another leader was chosen."""
CALL_SECONDS = 1.0
BOTH, MANY = ("CORRUPT", "NOSPACE"), tuple(f"A{number:03}" for number in range(16))


class Answering:
    """A member that gives these answers, then etcd's to an empty store; counts what it is asked."""

    def __init__(
        self, *errors: tuple[grpc.StatusCode, str], for_good: bool = False, then_silent: bool = False
    ) -> None:
        self._errors, self._for_good, self._then_silent = list(errors), for_good, then_silent
        self.asked = 0
        self.status = rpc.StatusResponse(leader=1)

    async def _next_error(self, context: Any) -> None:
        self.asked += 1
        if self._errors:
            await context.abort(*(self._errors[0] if self._for_good else self._errors.pop(0)))
        if self._then_silent:
            await asyncio.get_running_loop().create_future()

    async def Range(self, request: Any, context: Any) -> Any:
        await self._next_error(context)
        return rpc.RangeResponse(header=rpc.ResponseHeader(revision=1))

    async def Txn(self, request: Any, context: Any) -> Any:
        await self._next_error(context)
        return rpc.TxnResponse(header=rpc.ResponseHeader(revision=2), succeeded=True)

    async def Status(self, request: Any, context: Any) -> Any:
        await self._next_error(context)
        return self.status

    async def _none(self, request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "not of this test")

    Put = DeleteRange = Compact = Alarm = Defragment = Hash = HashKV = Snapshot = MoveLeader = _none


@asynccontextmanager
async def member(answering: Answering, call_seconds: float) -> AsyncIterator[EtcdStore]:
    server = aio.server()
    rpc.add_KVServicer_to_server(answering, server)
    rpc.add_MaintenanceServicer_to_server(answering, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    store = EtcdStore(EtcdConfig((f"http://127.0.0.1:{port}",), call_seconds=call_seconds))
    try:
        yield store
    finally:
        await store.close()
        await server.stop(None)


@pytest.mark.parametrize("elections", [1, 2, 7])
async def test_a_read_goes_on_while_the_members_elect_a_leader(elections: int) -> None:
    answering = Answering(*[ELECTION] * elections)
    async with member(answering, 30.0) as store:
        assert await store.get("/a") is None
    assert answering.asked == elections + 1


async def test_a_guarded_change_goes_on_while_the_members_elect_a_leader() -> None:
    answering = Answering(*[ELECTION] * 3)
    async with member(answering, 30.0) as store:
        outcome = await store.commit((Unchanged("/a", 0),), (Put("/a", b"1"),))
    assert isinstance(outcome, Committed)
    assert answering.asked == 4


async def test_an_election_without_end_is_waited_for_as_long_as_a_call_may_take_and_no_longer() -> None:
    answering = Answering(ELECTION, for_good=True)
    async with member(answering, CALL_SECONDS) as store:
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="leader changed"):
            await store.get("/a")
        assert time.monotonic() - began > CALL_SECONDS / 2
    assert 2 < answering.asked <= CALL_SECONDS / ELECTION_PAUSE_SECONDS + 2


async def test_a_call_whose_time_is_up_says_what_a_member_did_answer() -> None:
    answering = Answering(ELECTION, then_silent=True)
    async with member(answering, CALL_SECONDS) as store:
        with pytest.raises(StoreUnavailable, match="leader changed"):
            await store.get("/a")
    assert answering.asked == 2


async def test_what_cannot_be_asked_twice_is_not_whatever_the_answer() -> None:
    answering = Answering(ELECTION, for_good=True)
    async with member(answering, 5.0) as store:
        with pytest.raises(StoreUnavailable):
            await store.commit((), (Put("/a", b"1"),))
    assert answering.asked == 1


async def test_a_refusal_is_final() -> None:
    answering = Answering((grpc.StatusCode.PERMISSION_DENIED, "etcdserver: permission denied"))
    async with member(answering, 5.0) as store:
        with pytest.raises(StoreRefused, match="permission denied"):
            await store.get("/a")
    assert answering.asked == 1


@pytest.mark.parametrize(
    ("errors", "alarms"),
    [
        ((), ()),
        (("memberID:10276657743932975437 alarm:NOSPACE ",), ("NOSPACE",)),
        (
            tuple(f"memberID:{text} " for text in ("1 alarm:NOSPACE", "2 alarm:NOSPACE", "2 alarm:CORRUPT")),
            BOTH,
        ),
        (("etcdserver: something newer",), ()),
        (tuple(f"memberID:1 alarm:A{number:03}" for number in range(1000)), MANY),
    ],
)
async def test_the_alarms_of_the_cluster_are_those_that_a_member_names(
    errors: tuple[str, ...], alarms: tuple[str, ...]
) -> None:
    answering = Answering()
    answering.status = rpc.StatusResponse(leader=1, errors=errors)
    async with member(answering, 5.0) as store:
        assert await store.health() == alarms


async def test_a_member_that_does_not_answer_this_question_answers() -> None:
    answering = Answering((grpc.StatusCode.PERMISSION_DENIED, "etcdserver: permission denied"))
    async with member(answering, 5.0) as store:
        assert await store.health() == ()


async def test_an_election_is_no_absence_until_a_calls_time_is_up() -> None:
    answering = Answering()
    answering.status = rpc.StatusResponse(leader=0, errors=["etcdserver: no leader"])
    async with member(answering, CALL_SECONDS) as store:
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="no leader"):
            await store.health()
        assert time.monotonic() - began > CALL_SECONDS / 2
        answering.status = rpc.StatusResponse(leader=3)
        assert await store.health() == ()
    assert answering.asked <= CALL_SECONDS / ELECTION_PAUSE_SECONDS + 2
