"""What a machine's network and the files that we place look like, in lines that can be compared.

Promises: reads only; counters and remaining lifetimes are left out, for they change by themselves.
Does not know: whose an object is, what to do about a difference.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from agent.service import layout

READ_SECONDS = 30.0
COMMANDS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "links": (("ip", "-o", "link", "show"), ("ip", "-o", "address", "show")),
    "routes": (("ip", "-4", "route", "show", "table", "all"), ("ip", "-6", "route", "show", "table", "all")),
    "rules": (("ip", "-4", "rule", "show"), ("ip", "-6", "rule", "show")),
    "nft": (("nft", "list", "ruleset"),),
}
PASSING = re.compile(r"\s*(?:valid_lft \S+|preferred_lft \S+|expires \d+sec|tentative\b)")
COMPARED_SYSCTLS = (
    "net/ipv4/ip_forward",
    "net/ipv4/conf/*/*",
    "net/ipv6/conf/*/*",
    "net/ipv4/neigh/*/proxy_delay",
)
UNSTABLE = ("stable_secret", "/flush")
"""Sysctls that are written, not read."""
RESTORED_SYSCTLS = re.compile(r"net/ipv4/ip_forward|net/ipv[46]/conf/[^/]+/(?:forwarding|accept_redirects)")
"""The sysctls that the agent, or the kernel because of one of them, changes on interfaces that are not ours."""

Snapshot = Mapping[str, Sequence[str]]
"""Kind of thing (links, routes, rules, nft, sysctls, files) -> its lines."""


class SnapshotFailed(Exception):
    """One sentence: what cannot be read."""


def take_snapshot(root: Path = Path("/")) -> dict[str, list[str]]:
    """Links, routes, rules, nft, sysctls and our files. Raises SnapshotFailed."""
    found = {what: [line for words in each for line in _said(words)] for what, each in COMMANDS.items()}
    sysctls = sorted(matching_sysctls(Path("/proc/sys"), COMPARED_SYSCTLS).items())
    found["sysctls"] = [
        f"{name} = {value}" for name, value in sysctls if not any(part in name for part in UNSTABLE)
    ]
    found["files"] = placed_files(root)
    return found


def _said(words: Sequence[str]) -> list[str]:
    if shutil.which(words[0]) is None:
        if words[0] == "nft":
            return []  # without its program nobody else looks at it either; the agent needs none
        raise SnapshotFailed(f"{words[0]} is not installed: apt install iproute2")
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=READ_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SnapshotFailed(f"{' '.join(words)}: {error}") from error
    if done.returncode != 0 and "dump terminated" not in done.stderr.lower():
        raise SnapshotFailed(f"{' '.join(words)}: {done.stderr.strip()}")
    return [PASSING.sub("", line).rstrip() for line in done.stdout.splitlines()]


def matching_sysctls(root: Path, patterns: Sequence[str]) -> dict[str, str]:
    """Path below `root` -> value of the sysctls of these patterns; those that cannot be read are left out."""
    found = {}
    for pattern in patterns:
        for path in root.glob(pattern):
            with suppress(OSError):  # its interface has gone meanwhile, or it is written only
                found[str(path.relative_to(root))] = path.read_text().strip()
    return found


def placed_files(root: Path) -> list[str]:
    """Every file, link and directory where we place some, as `find` prints them."""
    found = {str(one) for one in layout.directories() if (root / one).is_dir()}
    single = [placed.target for placed in layout.FILES] + list(layout.COMMANDS)
    single += [layout.WANTS / unit for unit in layout.UNITS]
    found |= {str(one) for one in single if (root / one).is_symlink() or (root / one).exists()}
    for own in (layout.CONFIGURATION, layout.STATE, layout.RUN, *layout.CNI_DIRECTORIES):
        found |= {str(one.relative_to(root)) for one in (root / own).rglob("*")}
    found |= {str(one.relative_to(root)) for one in (root / layout.HOME).glob("*")}
    return sorted(found)


def snapshot_differences(before: Snapshot, now: Snapshot) -> dict[str, list[str]]:
    """What -> the lines that went (-) and came (+); nothing for what is as it was."""
    found = {}
    for what, lines in before.items():
        present = now.get(what, ())
        went = [f"- {line}" for line in lines if line not in set(present)]
        came = [f"+ {line}" for line in present if line not in set(lines)]
        if went or came:
            found[what] = went + came
    return found


def sysctls_to_restore(before: Snapshot) -> dict[str, str]:
    """Sysctl -> its value before, those first that change others when they are set."""
    values = dict(line.split(" = ", 1) for line in before.get("sysctls", ()) if " = " in line)
    names = [name for name in values if RESTORED_SYSCTLS.fullmatch(name)]
    order = sorted(
        names, key=lambda name: (name.count("/"), "/all/" not in name, "/default/" not in name, name)
    )
    return {name: values[name] for name in order}
