"""Sets structlog up: events as fields to journald, or as lines on standard error, for people or as JSON.

Promises: under systemd each field can be asked for (`journalctl TORTIE_EVENT=trouble.began`) and each event has its
priority; lines that repeat are counted and logged now and then; a text from outside forges no line and moves no
cursor; whoever logs never waits, and what libraries say by `logging` goes the same way. Does not know: what is logged.
No secret is logged: settings hold only paths of secret files.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog
from structlog.typing import EventDict, WrappedLogger

from agent.logging import journald
from agent.logging.log_stream import LogStream

PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""syslog(3) numbers."""
WINDOW_SECONDS = 60.0
MOST_ALIKE = 5
"""Lines with the same event and fields that pass in one window …"""
MOST_OF_EVENT = 200
"""… and lines of one event, whatever their fields."""
LONGEST_TEXT = 8 << 10
"""Characters of a text in an event; journald's fields are cut there too."""
MOST_REMEMBERED = 500
"""Kinds of lines that are counted at once; the oldest is dropped first."""


class RepeatFilter:
    """A processor that drops lines which came often enough in this window, and adds later how many were dropped."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._seen: dict[str, tuple[float, int]] = {}
        """Kind of line -> when its window began, and how many came in it."""

    def __call__(self, _: WrappedLogger, __: str, event: EventDict) -> EventDict:
        """structlog's protocol. Raises DropEvent."""
        fields = ", ".join(f"{name}={event[name]!r}" for name in sorted(event))
        dropped = self._count(fields, MOST_ALIKE)
        dropped_of_event = self._count(f"event {event.get('event')!r}", MOST_OF_EVENT)
        if (missed := max(dropped, dropped_of_event)) > 0:
            event["repeated"] = missed
        return event

    def _count(self, kind: str, most: int) -> int:
        """The number of lines dropped in the window that has ended; 0: none has. Raises DropEvent for one too many."""
        now = self._now()
        begun, count = self._seen.pop(kind, (now, 0))
        missed = 0
        if now - begun >= WINDOW_SECONDS:
            begun, count, missed = now, 0, max(0, count - most)
        self._seen[kind] = (begun, count + 1)
        if len(self._seen) > MOST_REMEMBERED:
            del self._seen[next(iter(self._seen))]
        if count >= most:
            raise structlog.DropEvent
        return missed


def printable_fields(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """A processor: no text of an event begins a line, speaks to a terminal, cannot be encoded, or has no end."""
    for name, value in event.items():
        if isinstance(value, str) and not (value.isprintable() and len(value) <= LONGEST_TEXT):
            event[name] = "".join(map(_shown, value[:LONGEST_TEXT]))
    return event


def _shown(character: str) -> str:
    # A line's end is left to the renderers: journald's fields may have some, lines for people and JSON escape it.
    plain = character.isprintable() or character == "\n"
    return character if plain else character.encode("unicode_escape").decode()


class StreamLogger:
    """A logger for structlog that writes lines to a stream."""

    def __init__(self, stream: LogStream) -> None:
        self._stream = stream

    def msg(self, text: str) -> None:
        """Write one line; never waits."""
        self._stream.write(text)

    debug = info = warning = error = critical = msg


class FromLibraries(logging.Handler):
    """What libraries say by Python's `logging`, as events of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        """logging's protocol."""
        log = structlog.get_logger()
        log.warning("library.says", library=record.name, text=record.getMessage(), exc_info=record.exc_info)


def configure(
    level: str, form: str, now: Callable[[], float] | None = None, journal_socket: Path = journald.SOCKET
) -> LogStream:
    """Set up logging for this process; `form` is `human` or `json`. Without a clock no repeat is dropped.

    Returns the stream that takes what journald does not.
    """
    journals = journald.is_journal(sys.stderr, os.environ)
    to_journal = journals and form == "human"
    human = structlog.processors.LogfmtRenderer(key_order=["level", "event"], drop_missing=True)
    renderer = human if form == "human" else structlog.processors.JSONRenderer(default=str)
    stamps = [] if journals else [structlog.processors.TimeStamper(fmt="iso", utc=True)]
    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        printable_fields,
        *([RepeatFilter(now)] if now is not None else []),
        *stamps,
        structlog.processors.format_exc_info,
        _for_journal(renderer, as_fields=to_journal) if journals else renderer,
    ]
    stream = LogStream(sys.stderr.fileno())
    logger = journald.JournalLogger(journal_socket, stream) if to_journal else StreamLogger(stream)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=lambda *_: logger,
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[FromLibraries(logging.WARNING)], force=True)
    return stream


def _for_journal(renderer: structlog.typing.Processor, *, as_fields: bool) -> structlog.typing.Processor:
    """As fields, or as a line that begins with its priority (sd-daemon(3))."""

    def render(logger: WrappedLogger, name: str, event: EventDict) -> Any:
        priority = PRIORITY.get(str(event.get("level")), PRIORITY["info"])
        fields = dict(event)
        text = str(renderer(logger, name, event))
        if not as_fields:
            return f"<{priority}>{text}"
        return (journald.datagram(text, priority, fields), priority, text), {}

    return render
