"""Prints the part of requirements.lock that the installed program needs: no test or style tools, every line hashed.

`python packaging/runtime_lock.py requirements.lock > runtime.lock`; runs in the project's own environment, whose
metadata says what needs what. Knows nothing of where packages come from.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

MOST_PACKAGES = 200


def needed(root: str) -> set[str]:
    """Everything that `root` needs at run time, itself not included."""
    found: set[str] = set()
    ahead = [root]
    while ahead and len(found) < MOST_PACKAGES:
        for text in requires(ahead.pop()) or ():
            wanted = Requirement(text)
            name = canonicalize_name(wanted.name)
            if (wanted.marker is None or wanted.marker.evaluate({"extra": ""})) and name not in found:
                found.add(name)
                ahead.append(name)
    return found


def entries(lock: str) -> dict[str, str]:
    """Name -> its lines in a lock file."""
    found = re.findall(r"^([a-z0-9._-]+)(?:\[[^]]*\])?==(?:.*\\\n)+.*\n", lock, re.MULTILINE)
    blocks = re.findall(r"^[a-z0-9._-]+(?:\[[^]]*\])?==(?:.*\\\n)+.*\n", lock, re.MULTILINE)
    return {canonicalize_name(name): block for name, block in zip(found, blocks, strict=True)}


def main() -> None:
    """The entry point."""
    pinned = entries(Path(sys.argv[1]).read_text())
    wanted = sorted(needed("tortie"))
    missing = [name for name in wanted if name not in pinned]
    if missing:
        sys.exit(f"{sys.argv[1]} does not pin {', '.join(missing)}; run: make lock")
    sys.stdout.write("".join(pinned[name] for name in wanted))


if __name__ == "__main__":
    main()
