"""Settings read again while the agent runs: checked first, and only good ones take effect.

Promises: bad settings change nothing and are refused with one sentence; good ones that differ have the process execute
itself anew with them, and nobody is notified (as at a restart: routes and pods stay, peers keep our paths).
Does not know: what a setting means.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from agent.configuration.config import Config, ConfigError

log = structlog.get_logger()


class SettingsReload:
    """The settings in force, and the change to others."""

    def __init__(
        self, current: Config, read: Callable[[], Config], begin_again: Callable[[], object]
    ) -> None:
        self._current = current
        self._read = read
        self._begin_again = begin_again
        self.wanted = False
        """Set: the process is to start over."""
        self.refused: str | None = None
        """Why the last reload was refused."""

    def reload(self) -> dict[str, Any]:
        """Read, check, and start over if anything differs. Raises ValueError with the sentence when it is bad."""
        try:
            new = self._read()
        except ConfigError as error:
            self.refused = str(error)
            log.error("reload.refused", why=str(error), settings="the old ones stay in force")
            raise ValueError(f"{error} (the settings in force stay)") from None
        self.refused = None
        changed = changed_settings(self._current, new)
        log.info("reload.accepted", changed=", ".join(changed) or "nothing")
        if changed:
            self.wanted = True
            self._begin_again()
        return {"changed": list(changed)}


def changed_settings(before: Config, after: Config) -> tuple[str, ...]:
    """`section.key` of each setting that is not the same."""
    old, new = msgspec.to_builtins(before), msgspec.to_builtins(after)
    return tuple(
        f"{section}.{key}" for section, keys in new.items() for key in keys if old[section][key] != keys[key]
    )
