"""Many BGP peers in one process, each at an address of its own, that say what they are given and nothing else.

`python -m tests.interop.announcers FILE` waits to be called at every address of the JSON file; whoever calls is told
the paths there, then End-of-RIB. A line `close ADDRESS` on standard input ends one for good: TCP, and the listener.
Promises: `ready` on standard output once all listen. Does not know: who calls, what is made of it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path

from bgp.wire import messages, nlri
from bgp.wire.attributes import Context, PathAttributes
from bgp.wire.capabilities import Capabilities
from bgp.wire.families import Family
from bgp.wire.iana import PORT
from bgp.wire.messages import Keepalive, Message, Open, Update

HOLD_SECONDS = 30
KEEPALIVE_SECONDS = 10.0
LARGEST_READ = 65536


@dataclass(frozen=True, slots=True)
class Said:
    """One path: what is announced of a prefix."""

    prefix: str
    next_hop: str
    as_path: tuple[int, ...] = ()
    origin: int = 0
    med: int | None = None
    local_pref: int | None = None
    originator_id: str = ""
    cluster_list: tuple[str, ...] = ()

    def update(self, family: Family) -> Update:
        attributes = PathAttributes(
            origin=self.origin,
            as_path=((2, tuple(self.as_path)),) if self.as_path else (),
            next_hop=ip_address(self.next_hop),
            med=self.med,
            local_pref=self.local_pref,
            originator_id=IPv4Address(self.originator_id) if self.originator_id else None,
            cluster_list=tuple(map(IPv4Address, self.cluster_list)),
        )
        return Update((), attributes, (nlri.pack(ip_network(self.prefix)),), family=family)


@dataclass(frozen=True, slots=True)
class Announcer:
    """One peer."""

    address: str
    asn: int
    router_id: str
    said: tuple[Said, ...] = field(default=())

    @property
    def family(self) -> Family:
        return Family.IPV6 if ":" in self.address else Family.IPV4

    def replies(self) -> list[Message]:
        """What it says first, and once its OPEN was taken."""
        offer = Capabilities(frozenset({self.family}), self.asn)
        updates = [one.update(self.family) for one in self.said]
        return [
            Open(self.asn, HOLD_SECONDS, IPv4Address(self.router_id), offer),
            Keepalive(),
            *updates,
            Update(family=self.family),
        ]


def written(announcers: list[Announcer]) -> str:
    """The file of these."""
    return json.dumps([asdict(one) for one in announcers])


def _read(text: str) -> list[Announcer]:
    rows = json.loads(text)
    return [Announcer(**{**row, "said": tuple(Said(**one) for one in row["said"])}) for row in rows]


class _Talk:
    """What one announcer has open."""

    def __init__(self, announcer: Announcer) -> None:
        self.announcer = announcer
        self.context = Context(four_octet_as=True, internal=True, families=frozenset({announcer.family}))
        self.server: asyncio.Server | None = None
        self.writers: set[asyncio.StreamWriter] = set()

    async def listen(self) -> None:
        self.server = await asyncio.start_server(self._talk, self.announcer.address, PORT)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        try:
            await reader.read(LARGEST_READ)  # its OPEN
            for message in self.announcer.replies():
                writer.write(messages.encode(message, self.context))
            while True:
                try:
                    async with asyncio.timeout(KEEPALIVE_SECONDS):
                        if not await reader.read(LARGEST_READ):
                            break
                except TimeoutError:
                    pass
                writer.write(messages.encode(Keepalive(), self.context))
        except OSError:
            pass  # the other end has gone
        finally:
            self.writers.discard(writer)
            writer.close()

    def close(self) -> None:
        if self.server is not None:
            self.server.close()
        for writer in self.writers:
            writer.close()


async def _serve(announcers: list[Announcer]) -> None:
    talks = {one.address: _Talk(one) for one in announcers}
    for talk in talks.values():
        await talk.listen()
    print("ready", flush=True)
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        _, address = line.decode().split()
        talks[address].close()
        print("closed", flush=True)


if __name__ == "__main__":
    asyncio.run(_serve(_read(Path(sys.argv[1]).read_text())))
