"""The unit files of systemd/, and the reasons that they give for each hardening that they do without."""

from __future__ import annotations

import json
import re

from tests import ROOT

UNITS = ROOT / "systemd"
SERVICES = ("tortie-agent.service", "tortie-drain.service", "tortie-bfd.service")
REASON = re.compile(r"^#! (\S+): (\S.*)$", re.MULTILINE)
"""A comment of a unit: `#! NAME: why`, by the name that `systemd-analyze security` uses."""


def exposed(listed: str) -> set[str]:
    """What `systemd-analyze security --json=short` complains of."""
    return {row["name"] for row in json.loads(listed) if float(row.get("exposure") or 0) > 0}


def reasons() -> dict[str, str]:
    """What the agent's unit gives a reason for."""
    return dict(REASON.findall((UNITS / SERVICES[0]).read_text()))
