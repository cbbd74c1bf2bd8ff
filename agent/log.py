"""Sets structlog up: one line per event on standard error, for people or as JSON.

Promises: with journald on the other end each line starts with its priority (`<6>`), so `journalctl -p` works.
Does not know: what is logged. Nobody logs a secret: settings hold only paths of secret files.
"""

from __future__ import annotations

import logging
import os
import sys

import structlog
from structlog.typing import EventDict, WrappedLogger

PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""syslog(3) numbers."""


def configure(level: str, form: str) -> None:
    """Set up logging for this process; `form` is `human` or `json`."""
    journald = "JOURNAL_STREAM" in os.environ
    human = structlog.processors.LogfmtRenderer(key_order=["level", "event"], drop_missing=True)
    renderer = human if form == "human" else structlog.processors.JSONRenderer(default=str)
    stamps = [] if journald else [structlog.processors.TimeStamper(fmt="iso", utc=True)]
    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        *stamps,
        structlog.processors.format_exc_info,
        _prioritized(renderer) if journald else renderer,
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def _prioritized(renderer: structlog.typing.Processor) -> structlog.typing.Processor:
    def render(logger: WrappedLogger, name: str, event: EventDict) -> str:
        priority = PRIORITY.get(str(event.get("level")), PRIORITY["info"])
        return f"<{priority}>{renderer(logger, name, event)!s}"

    return render
