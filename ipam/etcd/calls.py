"""Calls to etcd's members: each has a deadline, tokens are renewed, another member is asked when one has no answer.

Promises: a call ends within `EtcdConfig.call_seconds`, a refused token aside. A request that may be carried out twice
is repeated at another member, and while the members elect a leader; one that may not is never repeated, for nobody
knows whether the first call was carried out.
Does not know: keys, what is asked.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import grpc
from grpc import aio

from ipam.etcd.channels import Channels, Member
from ipam.etcd.etcd_config import EtcdConfig
from ipam.etcd.etcd_messages import rpc
from ipam.failures import (
    AnswerTooLarge,
    Compacted,
    StoreError,
    StoreRefused,
    StoreUnavailable,
    TakesNoWrites,
)

FIRST_PATIENCE_SECONDS = 1.0
"""How long one member is waited for while there are others: one whose leader has just died holds reads for 7 s (etcd
3.4), and hands proposals to the dead one."""
STALE_TOKEN = ("invalid auth token", "revision of auth store is old")
"""What etcd says to a token that it forgot, or that is older than the last change of users and roles."""
DENIED = (*STALE_TOKEN, "permission denied")
"""Why etcd cancels a watch whose token it forgot: up to 3.5 as if the user had no right to it."""
NO_SPACE = "database space exceeded"
"""What etcd says to a write while its NOSPACE alarm is on."""
ALARM = re.compile(r"\balarm:(\w+)")
"""An alarm among the errors of a StatusResponse: `memberID:8211f1d0f64f3269 alarm:NOSPACE `."""
LONGEST_VERSION = 40
"""Characters of a version that are believed."""
MOST_ALARMS = 16
NO_CONNECTION = re.compile(r"remote host: (?:connect: )?([A-Z][a-z]+(?: [a-z]+)*)(?: \(\d+\))?$")
"""How gRPC's sentence about members that cannot be reached ends: with what connect(2) said of the last."""
REFUSALS = frozenset(
    {
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.NOT_FOUND,
    }
)
"""Answers that another attempt will not change."""
NO_ANSWER = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
ELECTION_PAUSE_SECONDS = 0.05
"""Between two calls to members that say that they have no leader; `call_seconds` bounds how many there are."""


Metadata = tuple[tuple[str, str], ...]
"""What goes with a call beside its request: the token."""


class Calls:
    """The unary calls of one store, and its login."""

    def __init__(self, config: EtcdConfig) -> None:
        """Connects lazily. Raises ValueError when a TLS file cannot be used."""
        self.config = config
        self.channels = Channels(config)
        self._token: str | None = None
        self._login = asyncio.Lock()

    def metadata(self) -> Metadata:
        """The gRPC metadata of each call: the token, if there is one."""
        return (("token", self._token),) if self._token is not None else ()

    async def health(self) -> tuple[str, ...]:
        """The alarms of the cluster, as the first member that answers knows them: NOSPACE, CORRUPT; none: it is well.

        A member that refuses the connection is passed over at once, an election is waited for. Raises StoreUnavailable.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + self.config.call_seconds
        while True:
            member, answer = await self._status()
            if answer is None:
                return ()
            if answer.leader:
                found = (match[1] for text in answer.errors if (match := ALARM.search(text)) is not None)
                return tuple(sorted(set(found)))[:MOST_ALARMS]
            if loop.time() + ELECTION_PAUSE_SECONDS >= end:
                raise StoreUnavailable("its members have no leader")
            self.channels.failed(member)  # it may be the only one that is cut off
            await asyncio.sleep(ELECTION_PAUSE_SECONDS)

    async def version(self) -> str:
        """Which etcd the first member is that answers, as far as it says so. Raises StoreUnavailable."""
        _, answer = await self._status()
        return str(answer.version)[:LONGEST_VERSION] if answer is not None and answer.version else "unknown"

    async def _status(self) -> tuple[Member, Any | None]:
        """What a member says of itself; None: it answers, though not this question. Raises StoreUnavailable.

        The first is asked twice: a connection that has just broken does not say whether there can be another.
        """
        failure = StoreUnavailable("no member is known")
        members = self.channels.in_order()
        for member in (*members, *members[:1]):
            stub = member.stub("Maintenance")
            try:
                return member, await stub.Status(
                    rpc.StatusRequest(), timeout=self.config.call_seconds, metadata=self.metadata()
                )
            except aio.AioRpcError as error:
                translation = self.failed(member, error)
                if error.code() not in NO_ANSWER:
                    self.forget_token(error)
                    with suppress(StoreError):  # members newer than 3.5 may ask for one
                        await self.ensure_token()
                    return member, None
                failure = StoreUnavailable(str(translation))
                if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and len(members) == 1:
                    break
        raise failure

    async def ensure_token(self) -> None:
        """Log in, if a user name is configured and there is no token yet. Raises StoreError."""
        if self.config.username is not None and self._token is None:
            await self._renew(None)

    async def _renew(self, stale: str | None) -> None:
        """Log in, if nobody has since the token was this one: a login costs etcd 0.1 s of CPU (bcrypt)."""
        async with self._login:
            if self._token in (stale, None):
                await self._authenticate()

    async def _authenticate(self) -> None:
        request = rpc.AuthenticateRequest(name=self.config.username, password=self.config.secret())
        member = await self.channels.ready()
        try:
            answer = await member.stub("Auth").Authenticate(request, timeout=self.config.call_seconds)
        except aio.AioRpcError as error:
            raise self.failed(member, error) from error
        self._token = answer.token

    async def call_once(self, stub: str, method: str, request: Any) -> Any:
        """Call one member once, and again only with a fresh token: for what must not be carried out twice.

        Raises StoreError.
        """
        return await self._with_token(
            lambda: self._call_member(stub, method, request, self.config.call_seconds)
        )

    async def call_anywhere(
        self, stub: str, method: str, request: Any, again: Callable[[], None] = lambda: None
    ) -> Any:
        """Call a member, and others when it has no answer: for what changes nothing, or nothing twice.

        `again` is called before each repetition.
        Raises StoreError.
        """
        return await self._with_token(lambda: self._call_members(stub, method, request, again))

    async def _with_token(self, call: Callable[[], Awaitable[Any]]) -> Any:
        await self.ensure_token()
        used = self._token
        try:
            try:
                return await call()
            except aio.AioRpcError as error:
                if not self._token_expired(error):
                    raise
            await self._renew(used)
            return await call()
        except aio.AioRpcError as error:
            raise translated(error, self.config) from error

    async def _call_members(self, stub: str, method: str, request: Any, again: Callable[[], None]) -> Any:
        loop = asyncio.get_running_loop()
        end, members = loop.time() + self.config.call_seconds, max(2, len(self.config.endpoints))
        unanswered = 0
        election: aio.AioRpcError | None = None
        while True:
            seconds = end - loop.time()
            if unanswered + 1 < members and len(self.config.endpoints) > 1:
                seconds = min(FIRST_PATIENCE_SECONDS, seconds / 2)
            try:
                return await self._call_member(stub, method, request, max(seconds, 0.0))
            except aio.AioRpcError as error:
                election = error if electing(error) else election
                pause = ELECTION_PAUSE_SECONDS if electing(error) else 0.0
                unanswered += not pause
                late = loop.time() + pause >= end
                if late or unanswered >= members or error.code() not in NO_ANSWER:
                    if election is not None and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                        raise election from error  # what a member did answer says more than that time is up
                    raise
                again()
            await asyncio.sleep(pause)

    async def _call_member(self, stub: str, method: str, request: Any, seconds: float) -> Any:
        member = await self.channels.ready()
        call: Callable[..., Awaitable[Any]] = getattr(member.stub(stub), method)
        try:
            return await call(request, timeout=seconds, metadata=self.metadata())
        except aio.AioRpcError as error:
            self.failed(member, error)
            raise

    def failed(self, member: Member, error: aio.AioRpcError) -> StoreError:
        """The error to raise for gRPC's; the next call goes to another member if this one gave no answer."""
        if error.code() in NO_ANSWER:
            self.channels.failed(member)
        return translated(error, self.config)

    def forget_token(self, error: aio.AioRpcError) -> bool:
        """Drop the token if an error says that it is too old, so that the next call logs in anew; answers whether."""
        if not self._token_expired(error):
            return False
        self._token = None
        return True

    def is_denied(self, reason: str) -> bool:
        """Whether etcd cancelled a watch for its token, or for a right that its user does not have."""
        return self.config.username is not None and any(text in reason for text in DENIED)

    def drop_token(self, token: Metadata) -> None:
        """Log in anew with the next call, unless somebody has done so since this token was used."""
        if token == self.metadata():
            self._token = None

    def _token_expired(self, error: aio.AioRpcError) -> bool:
        if self.config.username is None:
            return False
        details = error.details() or ""
        return error.code() is grpc.StatusCode.UNAUTHENTICATED or any(text in details for text in STALE_TOKEN)


def electing(error: aio.AioRpcError) -> bool:
    """Whether a member has answered that it cannot serve just now: no leader, or a new one.

    Such answers are etcd's own (`etcdserver: leader changed`, `etcdserver: no leader`); gRPC's of a member that is not
    there have another text.
    """
    return error.code() is grpc.StatusCode.UNAVAILABLE and (error.details() or "").startswith("etcdserver: ")


def translated(
    error: aio.AioRpcError, config: EtcdConfig
) -> StoreUnavailable | StoreRefused | Compacted | AnswerTooLarge:
    """The error of `ipam.failures` for one of gRPC's."""
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.OUT_OF_RANGE and "compacted" in details:
        return Compacted(details)
    if (
        code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details
    ):  # gRPC's own words, not etcd's
        return AnswerTooLarge(details)
    if code in REFUSALS or (code is grpc.StatusCode.UNAUTHENTICATED and config.username is None):
        return StoreRefused(f"etcd says: {details}")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return StoreUnavailable(f"no answer within {config.call_seconds:g} s")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and NO_SPACE in details:
        return TakesNoWrites(f"etcd takes no writes: NOSPACE ({details})")
    said = NO_CONNECTION.search(details)
    return StoreUnavailable(said[1].lower() if said else details or code.name)
