"""The pages over real sockets: what HTTP's clients get, and that nobody else costs a descriptor, the loop or a line."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import random
import select
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.metrics import web
from agent.metrics.http_connection import MOST_HEAD_BYTES, MOST_REQUESTS, HttpConnection, Refused, Response
from agent.metrics.monitor import pages
from agent.metrics.web import MOST_CONNECTIONS, Pages, verdict

PATIENCE_SECONDS = 20
GET = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
ONCE = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
ALIVE: Pages = {"/livez": lambda: verdict(())}
LARGE = b"x" * (2 << 20)
"""More than any socket's buffers hold."""
TLS_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(range(189))
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\4\0\0\0\0\0\0\3\0\0\0\x80"


class Heard:
    """What came to the loop's exception handler: it would be a traceback in the log."""

    def __init__(self) -> None:
        self.contexts: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.contexts.append(context))


Address = Path | tuple[str, int]


@asynccontextmanager
async def served(path: Path, shown: Pages = ALIVE) -> AsyncIterator[Path]:
    """Pages on a unix socket."""
    ready = asyncio.Event()
    task = asyncio.create_task(web.on_socket(path, shown, ready.set))
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await ready.wait()
            yield path
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def served_on_tcp(shown: Pages = ALIVE) -> AsyncIterator[tuple[str, int]]:
    """Pages on a free port of the loopback."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = free.getsockname()
    ready = asyncio.Event()
    task = asyncio.create_task(web.on_tcp(f"127.0.0.1:{address[1]}", shown, ready.set))
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await ready.wait()
            yield address
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def connected(address: Address) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """One connection to them."""
    if isinstance(address, Path):
        reader, writer = await asyncio.open_unix_connection(address)
    else:
        reader, writer = await asyncio.open_connection(*address)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def rest(reader: asyncio.StreamReader) -> bytes:
    """What comes until the other side has closed."""
    got = b""
    with suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            got += data
    return got


async def answer_to(address: Address, octets: bytes, *, then_end: bool = False) -> bytes:
    """Everything that is answered to some octets, until the other side closes."""
    async with connected(address) as (reader, writer):
        writer.write(octets)
        if then_end:
            writer.write_eof()
        return await rest(reader)


def status_of(answer: bytes) -> int:
    """The number in the first line; 0 without an answer."""
    return int(answer.split(b" ", 2)[1]) if answer else 0


def descriptors() -> int:
    """How many this process has."""
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times of a server whose patience a test can wait for."""
    monkeypatch.setattr(web, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(web, "IDLE_SECONDS", 0.2)
    monkeypatch.setattr(web, "ANSWER_SECONDS", 0.2)


async def test_the_pages_answer_over_the_socket(tmp_path: Path) -> None:
    reasons = ["the datastore is away: refused"]

    class Text:
        def text(self) -> bytes:
            return b"tortie_pods 2.0\n"

    shown = pages(Text(), lambda: reasons)  # type: ignore[arg-type]
    async with served(tmp_path / "metrics.sock", shown) as path:
        assert path.stat().st_mode & 0o777 == 0o660
        answer = await answer_to(path, ONCE.replace(b"/livez", b"/metrics"))
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"\r\n\r\ntortie_pods 2.0\n")
        answer = await answer_to(path, ONCE.replace(b"/livez", b"/readyz?verbose"))
        assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"ok": False, "reasons": reasons}
        reasons.clear()
        answer = await answer_to(path, b"GET /readyz HTTP/1.0\r\n\r\n")
        assert status_of(answer) == 200
        assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"ok": True, "reasons": []}
        answer = await answer_to(path, b"HEAD /livez HTTP/1.0\r\n\r\n")
        assert (status_of(answer), answer[-4:]) == (200, b"\r\n\r\n")
        assert b"/metrics, /livez, /readyz" in await answer_to(path, b"GET /nothing HTTP/1.0\r\n\r\n")


@pytest.mark.parametrize(
    ("octets", "status"),
    [
        (ONCE, 200),
        (b"GET http://node1:9991/livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 200),
        (b"GET /livez HTTP/1.0\n\n", 200),
        (b"GET /nothing HTTP/1.0\r\n\r\n", 404),
        (b"GET /livez HTTP/1.1\r\n\r\n", 400),
        (b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n", 413),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n", 413),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", 413),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 3 * MOST_HEAD_BYTES, 431),
        (b"GET /" + b"x" * 3 * MOST_HEAD_BYTES, 431),
        (b"GET /livez HTTP/1.1\r\n" + b"A: b\r\n" * MOST_HEAD_BYTES, 431),
        (HTTP2_PREFACE, 505),
        (TLS_HELLO, 400),
        (b"\n", 400),
        (b"\r\n\r\n\r\n", 400),
        (b"GET\r\n\r\n", 400),
        (b"\0" * 300, 400),
    ],
)
async def test_each_kind_of_request_has_its_status_and_then_the_end(
    tmp_path: Path, octets: bytes, status: int
) -> None:
    heard = Heard()
    async with served(tmp_path / "s") as path, served_on_tcp() as port:
        for address in (path, port):
            assert status_of(await answer_to(address, octets)) == status
    assert heard.contexts == []


async def test_a_client_may_keep_its_connection_and_ask_ahead(tmp_path: Path) -> None:
    async with served(tmp_path / "s") as path:
        answers = await answer_to(path, GET * 7 + b"HEAD /livez HTTP/1.1\r\nHost: x\r\n\r\n" + ONCE)
        assert answers.count(b"HTTP/1.1 200 OK\r\n") == 9
        assert answers.count(b'"ok"') == 8
        async with connected(path) as (reader, writer):
            for _ in range(3):
                writer.write(GET)
                assert await reader.readuntil(b"}\n")


async def test_a_connection_ends_after_so_many_requests(tmp_path: Path) -> None:
    async with served(tmp_path / "s") as path:
        answers = await answer_to(path, GET * (MOST_REQUESTS + 50))
        assert answers.count(b"HTTP/1.1 200 OK\r\n") == MOST_REQUESTS
        assert answers.count(b"Connection: close\r\n") == 1


async def test_who_ends_its_half_is_answered_what_it_asked_before(tmp_path: Path) -> None:
    async with served(tmp_path / "s") as path:
        assert (await answer_to(path, GET * 3, then_end=True)).count(b"200 OK") == 3
        assert await answer_to(path, b"", then_end=True) == b""
        assert status_of(await answer_to(path, b"GET /li", then_end=True)) == 400


def odd(number: int) -> bytes:
    """What one of very many odd clients sends."""
    chance = random.Random(number)
    return chance.choice(
        (
            b"",
            b"GET /livez",
            b"\n",
            TLS_HELLO,
            HTTP2_PREFACE,
            GET[: chance.randrange(len(GET))],
            chance.randbytes(chance.randrange(1, 300)),
            GET + chance.randbytes(30),
            ONCE,
        )
    )


async def test_five_thousand_odd_connections_leave_descriptors_memory_and_the_log_as_they_were(
    tmp_path: Path,
) -> None:
    heard = Heard()

    async def flood(address: Address, numbers: range) -> None:
        slots = asyncio.Semaphore(50)

        async def one(number: int) -> None:
            async with slots, connected(address) as (reader, writer):
                writer.write(odd(number))
                if number % 3 == 0:
                    writer.write_eof()
                    await rest(reader)

        await asyncio.gather(*(one(number) for number in numbers))

    async with served(tmp_path / "s") as path, served_on_tcp() as port:
        await flood(path, range(200))
        await flood(port, range(200))
        assert status_of(await answer_to(path, ONCE)) == 200
        gc.collect()
        before, objects = descriptors(), len(gc.get_objects())
        await flood(path, range(4000))
        await flood(port, range(1000))
        # What is silent now was opened last; the answers come behind all of it.
        assert status_of(await answer_to(path, ONCE)) == 200
        assert status_of(await answer_to(port, ONCE)) == 200
        await asyncio.sleep(0)
        gc.collect()
        assert descriptors() <= before + MOST_CONNECTIONS // 4
        assert len(gc.get_objects()) < objects + 2000
    assert heard.contexts == []


async def test_whoever_opens_many_and_says_nothing_keeps_no_scraper_out(tmp_path: Path) -> None:
    async with served(tmp_path / "s") as path:
        before = descriptors()
        silent = [await asyncio.open_unix_connection(path) for _ in range(5 * MOST_CONNECTIONS)]
        for _, writer in silent:
            writer.write(b"G")
        for _ in range(3):
            assert status_of(await answer_to(path, ONCE)) == 200
        # Theirs and ours: ours are at most so many.
        assert descriptors() <= before + len(silent) + MOST_CONNECTIONS
        for _, writer in silent:
            writer.transport.abort()


async def test_a_head_that_comes_drop_by_drop_is_cut_and_so_is_silence(tmp_path: Path, quick: None) -> None:
    loop = asyncio.get_running_loop()
    async with served(tmp_path / "s") as path:
        async with connected(path) as (reader, writer):
            for number, octet in enumerate(GET[:-1]):
                last = loop.call_later(0.02 * number, writer.write, bytes([octet]))
            assert await rest(reader) == b""
            assert loop.time() < last.when()
        async with connected(path) as (reader, _):
            assert await rest(reader) == b""
        async with connected(path) as (reader, writer):
            writer.write(GET)
            assert (await rest(reader)).count(b"200 OK") == 1  # and then the end


async def test_who_takes_no_answer_is_cut(tmp_path: Path, quick: None) -> None:
    async with served(tmp_path / "s", {"/livez": lambda: Response(LARGE)}) as path:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.send(GET)
            closed = select.poll()
            closed.register(client, 0)  # nothing but its end
            assert await asyncio.to_thread(closed.poll, PATIENCE_SECONDS * 1000)


async def test_a_large_answer_is_whole_for_who_takes_it(tmp_path: Path) -> None:
    async with served(tmp_path / "s", {"/livez": lambda: Response(LARGE)}) as path:
        assert (await answer_to(path, GET + ONCE)).count(LARGE) == 2


async def test_answers_that_nobody_takes_are_no_more_than_there_are_places(tmp_path: Path) -> None:
    made: list[int] = []
    all_made = asyncio.Event()

    def page() -> Response:
        made.append(1)
        if len(made) == MOST_CONNECTIONS:
            all_made.set()
        return Response(LARGE)

    async with served(tmp_path / "s", {"/livez": page}) as path:
        opened = []
        for _ in range(MOST_CONNECTIONS):
            reader, writer = await asyncio.open_unix_connection(path)
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(GET * 5)
            opened.append(writer)
        await all_made.wait()
        assert status_of(await answer_to(path, ONCE)) == 503
        assert len(made) == MOST_CONNECTIONS
        for writer in opened:
            writer.transport.abort()


async def test_pages_leave_the_loop_to_others(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    turns: list[float] = []

    def costly() -> Response:
        began = loop.time()
        while loop.time() - began < 0.01:
            pass
        turns.append(began)
        return Response(b"")

    async with served(tmp_path / "s", {"/livez": costly}) as path:
        await asyncio.gather(*(answer_to(path, GET * 2 + ONCE) for _ in range(4)))
    assert len(turns) == 12
    assert min(later - one for one, later in itertools.pairwise(turns)) >= 0.039


async def test_a_page_that_fails_is_a_500_and_the_next_one_is_served(tmp_path: Path) -> None:
    heard = Heard()

    def broken() -> Response:
        raise KeyError("tortie_pods")

    async with served(tmp_path / "s", {**ALIVE, "/metrics": broken}) as path:
        answer = await answer_to(path, ONCE.replace(b"/livez", b"/metrics"))
        assert status_of(answer) == HTTPStatus.INTERNAL_SERVER_ERROR
        assert b"tortie_pods" not in answer
        assert status_of(await answer_to(path, ONCE)) == 200
    assert [repr(context["exception"]) for context in heard.contexts] == ["KeyError('tortie_pods')"]


async def test_a_socket_that_cannot_be_opened_says_so(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file or directory"):
        await web.on_socket(tmp_path / "nowhere" / "metrics.sock", ALIVE)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        await web.on_tcp(f"127.0.0.1:{taken.getsockname()[1]}", ALIVE)


async def test_the_umask_of_the_process_is_the_same_in_every_turn(tmp_path: Path) -> None:
    before, seen = os.umask(0), set()
    os.umask(before)
    loop = asyncio.get_running_loop()

    def look() -> None:
        seen.add(os.umask(before))
        loop.call_soon(look)

    loop.call_soon(look)
    async with served(tmp_path / "metrics.sock"):
        pass
    assert seen == {before}


# -- the core: octets alone --------------------------------------------------------------------------------------------


def talked(octets: bytes, cuts: list[int]) -> tuple[int, int]:
    """Feed octets in pieces, as web.py does, until the end: how many requests and refusals came."""
    http, requests, refusals, answer = HttpConnection(), 0, 0, b"HTTP/1.1 200 OK\r\n"
    for piece in [*pieces(octets, cuts), b""]:
        http.receive(piece)
        while not http.ended:
            try:
                request = http.next_request()
            except Refused as refused:
                refusals += 1
                answer = http.answer(refused.response, last=True)
                break
            if request is None:
                break
            requests += 1
            answer = http.answer(Response(b"page"))
        if http.ended:
            break
        assert answer.startswith(b"HTTP/1.1 ")
    assert http.ended
    return requests, refusals


def pieces(octets: bytes, cuts: list[int]) -> Iterator[bytes]:
    """The octets, cut there."""
    at = 0
    for cut in sorted({cut % (len(octets) + 1) for cut in cuts} | {len(octets)}):
        if cut > at:
            yield octets[at:cut]
        at = cut


LINES = st.sampled_from(
    (
        *(GET, ONCE, b"GET ", b"/livez", b" HTTP/1.1", b"\r\n", b"\n", b"Host: x\r\n", b"Content-Length: "),
        *(b"7", b"Transfer-Encoding: chunked\r\n", b"Connection: upgrade\r\nUpgrade: h2c\r\n", b"HEAD "),
        *(b"CONNECT ", b"\0", b"\xff", b":", b" ", TLS_HELLO, HTTP2_PREFACE, b"9" * 5000),
        b"Expect: 100-continue\r\n",
    )
)
OCTETS: Callable[[list[bytes]], bytes] = b"".join


@given(
    st.lists(LINES | st.binary(max_size=20), max_size=12).map(OCTETS),
    st.lists(st.integers(0, 9999), max_size=5),
)
def test_whatever_octets_come_there_is_an_end_and_one_refusal_at_most(octets: bytes, cuts: list[int]) -> None:
    assert talked(octets, cuts)[1] <= 1


@given(st.integers(0, 8), st.lists(st.integers(0, 9999), max_size=9))
def test_requests_are_the_same_however_they_are_cut(count: int, cuts: list[int]) -> None:
    assert talked(GET * count, cuts) == (count, 0)
