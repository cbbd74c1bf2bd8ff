"""A small BGP speaker for labs and tests: `python -m bgp CONFIG.toml`. It programs no route; README.md is its manual.

Promises: prints one line per event until SIGTERM, which drains or leaves silently as the file says; SIGHUP reads the
file again, and one with a mistake changes nothing. Exit code 1 and one sentence on standard error when it cannot work.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bgp.rib.multipath import single_hops
from bgp.settings import BadSettings, Form, Leaving, Settings, settings_of
from bgp.transport.speaker import Speaker
from bgp.wire.errors import ListenFailed
from bgp.wire.families import number_of
from bgp.wire.nlri import unpack


class SystemClock:
    """The machine's clocks."""

    def now(self) -> float:
        """Monotonic seconds."""
        return asyncio.get_running_loop().time()

    def wall(self) -> datetime:
        """The present moment in UTC."""
        return datetime.now(UTC)


class Events:
    """Prints events; also the speaker's log."""

    def __init__(self, form: Form) -> None:
        self._form = form

    def emit(self, event: str, **fields: Any) -> None:
        """One line. The standard output must be read: the speaker waits for it."""
        if self._form is Form.JSON:
            line = json.dumps({"event": event, **fields}, default=str)
        else:
            shown = " ".join(f"{name}={value}" for name, value in fields.items() if value not in ("", None))
            line = f"{event:<10} {shown}"
        print(line, flush=True)

    def info(self, event: str, **fields: Any) -> None:
        """Something changed, or (`warning`) was tolerated or is tried again."""
        self.emit(event.removeprefix("bgp."), **fields)

    warning = error = info


class Standalone:
    """The speaker, its file and its signals."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self._path = path
        self._settings = settings
        self._events = Events(settings.output)
        self._speaker = Speaker(settings.speaker, SystemClock(), self._changed, self._events)
        self._was_converged = False
        self._ending = asyncio.Event()

    def _apply_settings(self) -> None:
        self._speaker.configure(self._settings.peers)
        self._speaker.announce(self._settings.originations)

    def _changed(self) -> None:
        for prefix in sorted(
            (unpack(one, family) for family, some in self._speaker.take_changed().items() for one in some),
            key=lambda one: (number_of(one.network_address), one.prefixlen),
        ):
            route = self._speaker.learned.get(prefix)
            if route is None:
                self._events.emit("gone", prefix=prefix)
                continue
            fields: dict[str, Any] = {"next_hop": route.next_hop, "peer": route.peer, "stale": route.stale}
            if route.several is not None:
                fields["several"] = [str(hop) for hop in single_hops(route.several)]
            self._events.emit("path", prefix=prefix, **fields)
        if self._speaker.converged and not self._was_converged:
            self._was_converged = True
            self._events.emit("converged", prefixes=len(self._speaker.learned))

    def _reload(self) -> None:
        try:
            wanted = settings_of(self._path.read_text())
        except (OSError, BadSettings) as error:
            self._events.emit("refused", why=str(error))
            return
        if wanted.speaker != self._settings.speaker:
            self._events.emit("refused", why="as, router_id, listen and the like need a new start")
            return
        self._settings = wanted
        self._apply_settings()
        self._events.emit("reloaded", peers=len(wanted.peers), prefixes=len(wanted.originations))

    async def run(self) -> None:
        """Until SIGTERM or SIGINT. Raises ListenFailed."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._ending.set)
        loop.add_signal_handler(signal.SIGINT, self._ending.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        self._apply_settings()
        running = loop.create_task(self._speaker.run())
        listening = loop.create_task(self._speaker.listening.wait())
        ending = loop.create_task(self._ending.wait())
        await asyncio.wait((running, listening), return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            own = self._settings.speaker
            self._events.emit("listening", addresses=[str(one) for one in own.addresses], port=own.port)
        await asyncio.wait((running, ending), return_when=asyncio.FIRST_COMPLETED)
        if not running.done() and self._settings.on_sigterm is Leaving.DRAIN:
            self._speaker.shutdown(self._settings.drain_text)
        for task in (running, listening, ending):
            task.cancel()
        with suppress(asyncio.CancelledError):
            await running  # raises ListenFailed
        self._events.emit("stopped", how=self._settings.on_sigterm.value)


def main() -> None:
    """The command. Exits with 1 where the file or the address is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m bgp", description="A small BGP speaker for labs and tests."
    )
    parser.add_argument("config", type=Path, help="a TOML file; see bgp/README.md")
    path = parser.parse_args().config
    try:
        asyncio.run(_serve(path))
    except (OSError, BadSettings, ListenFailed) as error:
        print(f"{path}: {error}", file=sys.stderr)
        sys.exit(1)


async def _serve(path: Path) -> None:
    await Standalone(path, settings_of(path.read_text())).run()


if __name__ == "__main__":
    main()
