"""Netlink sockets that never block the loop: batches, dumps and a subscription (netlink(7)).

Strategy. The kernel carries a request out inside send(), so the answers are in the receive buffer when it returns: a
batch is one send and a few receives without waiting, and nothing can come between them. A dump is long, so it has a
socket of its own and lets others run between its parts; whoever is cancelled leaves a closed socket behind.
Promises: every batch has one outcome per message; a dump is complete or raises Incomplete; a lost notification raises
Lost. Does not know: what the messages mean.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import socket
import struct
import sys
from array import array
from collections.abc import Callable, Container, Sequence
from contextlib import nullcontext
from itertools import accumulate
from typing import Protocol, TypeVar

from agent.netlink.kernel_errors import Incomplete, KernelError, Unsupported
from agent.netlink.rtnetlink import (
    HEADER,
    NLM_F_ACK,
    NLM_F_DUMP_INTR,
    NLMSG_DONE,
    NLMSG_ERROR,
    EqualRequests,
    error_of,
    messages,
)

T = TypeVar("T")

NETLINK_ROUTE, NETLINK_NETFILTER = 0, 12
SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP, NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 1, 10, 11, 12
SO_ATTACH_FILTER, SO_SNDBUFFORCE, SO_RCVBUFFORCE = 26, 32, 33

BATCH_MESSAGES = 1000
"""Messages in one send: about 4 ms of the kernel's time, so the loop is never held longer."""
REQUEST_BUFFER_BYTES = 4 << 20
"""Holds one refusal per message of a batch."""
LISTEN_BUFFER_BYTES = 16 << 20
"""Some 20,000 route events; fewer and a burst by somebody else costs a full read."""
DATAGRAM_BYTES = 1 << 16
"""The kernel cuts dumps into datagrams of at most 32 KiB."""
DUMP_ATTEMPTS = 8
"""Starts of one dump while others keep changing what is read."""
DATAGRAMS_PER_PAUSE = 8
"""Datagrams read before others may run: some 4,000 routes."""

UNSUPPORTED_ERRNOS = frozenset(
    {errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.ESOCKTNOSUPPORT, errno.ENOPROTOOPT}
)
_FLAGS = struct.Struct("=H")
_SEQUENCE = struct.Struct("=I")
_INSTRUCTION, _PROGRAM = struct.Struct("=HBBI"), struct.Struct("@HP")
FLAGS_OFFSET, SEQUENCE_OFFSET, PORT_OFFSET = 6, 8, 12
LAST_SEQUENCE = 0x3FFFFFFF


def _all_but(port: int) -> tuple[tuple[int, int, int, int], ...]:
    """linux/filter.h: load nlmsg_pid, which BPF reads as big endian; equal: take 0 bytes of it, else all."""
    return (
        (0x20, 0, 0, PORT_OFFSET),
        (0x15, 0, 1, int.from_bytes(port.to_bytes(4, sys.byteorder), "big")),
        (0x06, 0, 0, 0),
        (0x06, 0, 0, 0xFFFFFFFF),
    )


class NlmsgError(KernelError):
    """The kernel answered one request with an errno (NLMSG_ERROR)."""

    def __init__(self, code: int, words: str, what: str) -> None:
        self.code, self.why = code, reason(code, words)
        super().__init__(f"{what}: {self.why}")


class Lost(KernelError):
    """Notifications were dropped because nobody read them in time (ENOBUFS)."""


def reason(code: int, words: str) -> str:
    """`No route to host (Nexthop has invalid gateway)`."""
    return f"{os.strerror(code)} ({words})" if words else os.strerror(code)


def open_socket(protocol: int, buffer_bytes: int, groups: Sequence[int] = ()) -> socket.socket:
    """A bound netlink socket of the namespace the process is in. Raises KernelError, Unsupported."""
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    try:
        opened = socket.socket(socket.AF_NETLINK, kind, protocol)
    except OSError as error:
        cause = Unsupported if error.errno in UNSUPPORTED_ERRNOS else KernelError
        raise cause(f"opening a netlink socket of protocol {protocol}: {error.strerror}") from error
    try:
        _enlarge(opened, SO_RCVBUFFORCE, socket.SO_RCVBUF, buffer_bytes)
        _enlarge(opened, SO_SNDBUFFORCE, socket.SO_SNDBUF, REQUEST_BUFFER_BYTES)
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK):
            _try_option(opened, option)
        opened.bind((0, 0))
        for group in groups:
            _join(opened, group)
    except OSError as error:
        opened.close()
        raise KernelError(f"setting up a netlink socket: {error.strerror}") from error
    return opened


def _enlarge(opened: socket.socket, force: int, ordinary: int, size: int) -> None:
    try:
        opened.setsockopt(socket.SOL_SOCKET, force, size)
    except PermissionError:
        # Without CAP_NET_ADMIN in the first user namespace the system's limit holds.
        opened.setsockopt(socket.SOL_SOCKET, ordinary, size)


def _join(opened: socket.socket, group: int) -> None:
    try:
        opened.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
    except OSError as error:
        # A kernel that does not know the group does not have its objects either.
        if error.errno != errno.EINVAL:
            raise


def _try_option(opened: socket.socket, option: int) -> None:
    try:
        opened.setsockopt(SOL_NETLINK, option, 1)
    except OSError as error:
        # An older kernel does without: longer answers, dumps filtered by us.
        if error.errno != errno.ENOPROTOOPT:
            raise


class RequestSocket:
    """Carries out batches; open all the time, so that its port distinguishes our own changes from others'."""

    def __init__(self, protocol: int = NETLINK_ROUTE) -> None:
        self._socket = open_socket(protocol, REQUEST_BUFFER_BYTES)
        self._sequence = 0

    @property
    def port(self) -> int:
        """The netlink port that notifications of our changes bear."""
        return int(self._socket.getsockname()[0])

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    async def execute(self, requests: Sequence[bytes]) -> dict[int, tuple[int, str]]:
        """Carry out any number of requests; position -> (errno, words) of those refused. Raises KernelError."""
        refused: dict[int, tuple[int, str]] = {}
        for start in range(0, len(requests), BATCH_MESSAGES):
            if start:
                await asyncio.sleep(0)
            for position, outcome in self.at_once(requests[start : start + BATCH_MESSAGES]).items():
                refused[start + position] = outcome
        return refused

    def at_once(self, requests: Sequence[bytes]) -> dict[int, tuple[int, str]]:
        """Carry out up to BATCH_MESSAGES in one send, so that nothing comes between. Raises KernelError.

        Only the last message asks for an ACK; a refusal of any other comes unasked.
        """
        sent = requests[:BATCH_MESSAGES]
        return self._answers(sent, len(sent) - 1) if sent else {}

    def transaction(self, requests: Sequence[bytes]) -> dict[int, tuple[int, str]]:
        """Carry out one nfnetlink batch (begin, messages, end), which the kernel takes as a whole or not at all.

        Position -> (errno, words) of what it did not take. Not every kernel answers the end, so the message before it
        asks. Raises KernelError.
        """
        return self._answers(requests, len(requests) - 2)

    def _numbered(self, requests: Sequence[bytes], acknowledged: int) -> tuple[bytearray, int]:
        """The requests with consecutive sequence numbers, the first of them, and one asking for an ACK."""
        first, count = self._sequence + 1, len(requests)
        self._sequence = first + count - 1 & LAST_SEQUENCE
        if isinstance(requests, EqualRequests):
            batch, size = bytearray(requests.octets), requests.size
            # One octet of every message at a time: for a thousand requests four steps instead of a thousand.
            numbers = array("I", range(first, first + count)).tobytes()
            for octet in range(_SEQUENCE.size):
                batch[SEQUENCE_OFFSET + octet :: size] = numbers[octet :: _SEQUENCE.size]
            at = acknowledged * size + FLAGS_OFFSET
        else:
            batch, sizes = bytearray(b"".join(requests)), list(map(len, requests))
            for number, offset in enumerate(accumulate(sizes[:-1], initial=0), first):
                _SEQUENCE.pack_into(batch, offset + SEQUENCE_OFFSET, number)
            at = sum(sizes[:acknowledged]) + FLAGS_OFFSET
        _FLAGS.pack_into(batch, at, _FLAGS.unpack_from(batch, at)[0] | NLM_F_ACK)
        return batch, first

    def _answers(self, requests: Sequence[bytes], acknowledged: int) -> dict[int, tuple[int, str]]:
        """Send, and take every answer: they are all there when send() returns. One must be of what is acknowledged."""
        batch, first = self._numbered(requests, acknowledged)
        count, answered = len(requests), False
        refused: dict[int, tuple[int, str]] = {}
        try:
            self._socket.send(batch)
            while True:
                data = self._socket.recv(DATAGRAM_BYTES)
                for found in messages(data):
                    position = found.sequence - first
                    if found.type != NLMSG_ERROR or not 0 <= position < count:
                        continue
                    code, words = error_of(data, found)
                    if code:
                        refused[position] = (code, words)
                    # A transaction that is refused need not be acknowledged.
                    answered = answered or position >= acknowledged or bool(code)
        except BlockingIOError:
            if answered:
                return refused
            raise KernelError(f"the kernel did not answer a batch of {count} netlink requests") from None
        except OSError as error:
            raise KernelError(f"a batch of {count} netlink requests: {error.strerror}") from error


class RequestSockets(dict[int, RequestSocket]):
    """The request sockets of one owner by protocol, each opened when it is first needed. Raises KernelError then."""

    def __missing__(self, protocol: int) -> RequestSocket:
        self[protocol] = RequestSocket(protocol)
        return self[protocol]


async def dump(
    request: bytes,
    kind: int,
    decode: Callable[[bytes, int, int], T | None],
    protocol: int = 0,
    opened: socket.socket | None = None,
    absent: Container[int] = frozenset(),
) -> list[T]:
    """Everything a dump request yields, as `decode` makes it of the bodies of messages of type `kind`.

    It is sent over a socket of the namespace the process is in, or over `opened`, which stays open. The errnos in
    `absent` mean that there is nothing. Raises Incomplete when others changed things during every attempt, KernelError.
    """
    for _ in range(DUMP_ATTEMPTS):
        try:
            whole = await _dump_once(request, kind, decode, protocol, opened)
        except NlmsgError as error:
            if error.code not in absent:
                raise
            whole = []
        if whole is not None:
            return whole
    raise Incomplete(
        f"a dump of type {kind} was interrupted {DUMP_ATTEMPTS} times by changes; reading again later"
    )


async def _dump_once(
    request: bytes,
    kind: int,
    decode: Callable[[bytes, int, int], T | None],
    protocol: int,
    given: socket.socket | None,
) -> list[T] | None:
    """None when the kernel says that the table changed under the dump (NLM_F_DUMP_INTR)."""
    rows: list[T] = []
    interrupted, datagrams = False, 0
    with nullcontext(given) if given is not None else open_socket(protocol, REQUEST_BUFFER_BYTES) as opened:
        try:
            opened.send(request)
            while True:
                data = opened.recv(DATAGRAM_BYTES)
                for found in messages(data):
                    interrupted = interrupted or bool(found.flags & NLM_F_DUMP_INTR)
                    if found.type == kind:
                        row = decode(data, found.start, found.end)
                        if row is not None:
                            rows.append(row)
                    elif found.type in {NLMSG_DONE, NLMSG_ERROR}:
                        code, words = error_of(data, found)
                        if code:
                            raise NlmsgError(code, words, f"dump of type {kind}")
                        return None if interrupted else rows
                datagrams += 1
                if datagrams % DATAGRAMS_PER_PAUSE == 0:
                    await asyncio.sleep(0)
        except OSError as error:
            raise KernelError(f"a dump of type {kind}: {error.strerror}") from error


class Subscription:
    """Notifications of some multicast groups, in the order the kernel made them."""

    def __init__(self, protocol: int, groups: Sequence[int]) -> None:
        self._socket = open_socket(protocol, LISTEN_BUFFER_BYTES, groups)

    def fileno(self) -> int:
        """For the loop."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def ignore(self, port: int) -> None:
        """Have the kernel drop, from now on, its notifications of the changes of one port (socket(7)).

        100,000 routes of our own are as many datagrams that nobody wants. Raises KernelError: the kernel keeps such a
        program within net.core.optmem_max.
        """
        program = b"".join(_INSTRUCTION.pack(*line) for line in _all_but(port))
        held = ctypes.create_string_buffer(program)
        fprog = _PROGRAM.pack(len(program) // _INSTRUCTION.size, ctypes.addressof(held))
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, fprog)
        except OSError as error:
            why = "net.core.optmem_max is too small: sysctl -w net.core.optmem_max=20480"
            raise KernelError(f"no filter for its notifications ({error.strerror}); {why}") from error

    def read(self) -> bytes | None:
        """The next datagram, None when there is none. Raises Lost, KernelError."""
        try:
            return self._socket.recv(DATAGRAM_BYTES)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                raise Lost("notifications were lost") from error
            raise KernelError(f"reading notifications: {error.strerror}") from error


class Readable(Protocol):
    """Something the loop can wait for."""

    def fileno(self) -> int:
        """Its descriptor."""
        ...


async def readable(subscriptions: Sequence[Readable]) -> None:
    """Wait until one of them has something."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    for subscription in subscriptions:
        loop.add_reader(subscription.fileno(), ready.set)
    try:
        await ready.wait()
    finally:
        for subscription in subscriptions:
            loop.remove_reader(subscription.fileno())


assert HEADER.size == 16, "the offsets above are those of nlmsghdr"
