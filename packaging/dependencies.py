"""Fetches what the installed program needs, as wheels for every Python that we support, by the hashes of the lock.

`python packaging/dependencies.py requirements.lock DIRECTORY`; runs in the project's own environment, whose metadata
says what needs what. Promises: the directory has all of it or is as it was, and what stands already is not fetched; no
test or style tools; what fits all Pythons is there once. A package without wheels must be pure, for it is built here.
Knows nothing of where packages come from.
"""

from __future__ import annotations

import hashlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

PYTHONS = ((3, 11), (3, 13))
"""Debian 12's and Debian 13's."""
LIBC_MINORS = range(36, 4, -1)
"""What runs with Debian 12's glibc 2.36 runs with any later."""
PLATFORMS = [f"manylinux_2_{minor}_{platform.machine()}" for minor in LIBC_MINORS]
PLATFORMS.append(f"manylinux2014_{platform.machine()}")
MOST_PACKAGES = 200
PIP = [sys.executable, "-m", "pip"]
FLAGS = ["-q", "--disable-pip-version-check", "--require-hashes"]
PIP_SECONDS = 900.0
STAMP = "made-of"
"""In the directory: what it was made of."""

Python = tuple[int, int]


def needed(root: str, python: Python) -> set[str]:
    """Everything that `root` needs at run time with a Python, itself not included."""
    version = ".".join(str(part) for part in python)
    markers = {"extra": "", "python_version": version, "python_full_version": f"{version}.0"}
    found: set[str] = set()
    ahead = [root]
    while ahead and len(found) < MOST_PACKAGES:
        for text in requires(ahead.pop()) or ():
            wanted = Requirement(text)
            name = canonicalize_name(wanted.name)
            if (wanted.marker is None or wanted.marker.evaluate(markers)) and name not in found:
                found.add(name)
                ahead.append(name)
    return found


def entries(lock: str) -> dict[str, str]:
    """Name -> its lines in a lock file."""
    blocks = re.findall(r"^[a-z0-9._-]+(?:\[[^]]*\])?==(?:.*\\\n)+.*\n", lock, re.MULTILINE)
    return {canonicalize_name(re.split(r"[\[=]", block)[0]): block for block in blocks}


def fits(wheel: Path, python: Python) -> bool:
    """Whether a Python of this machine's architecture can use a wheel."""
    usable = {
        *cpython_tags(python, platforms=PLATFORMS),
        *compatible_tags(python, platforms=PLATFORMS),
    }
    return not usable.isdisjoint(parse_wheel_filename(wheel.name)[3])


def fetch(pinned: dict[str, str], directory: Path) -> None:
    """Into an empty directory."""
    own = sys.version_info[:2]
    wanted = {python: needed("tortie", python) for python in (own, *PYTHONS)}
    names = set().union(*wanted.values())
    if missing := sorted(names - pinned.keys()):
        sys.exit(f"the lock does not pin {', '.join(missing)}; run: make lock")
    _pip(["wheel", "--use-pep517", "-w", str(directory)], [pinned[name] for name in sorted(names)], directory)
    for python in PYTHONS:
        here = {parse_wheel_filename(path.name)[0] for path in directory.glob("*.whl") if fits(path, python)}
        away = sorted(wanted[python] - here)
        version = ".".join(str(part) for part in python)
        words = [
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "--python-version",
            version,
            "-d",
            str(directory),
        ]
        words += [f"--platform={name}" for name in PLATFORMS]
        if away:
            _pip(words, [pinned[name] for name in away], directory)


def _pip(words: Sequence[str], lines: Sequence[str], directory: Path) -> None:
    lock = directory / "runtime.lock"
    lock.write_text("".join(lines))
    done = subprocess.run(
        [*PIP, words[0], *FLAGS, "-r", str(lock), *words[1:]], check=False, timeout=PIP_SECONDS
    )
    if done.returncode != 0:
        sys.exit(f"pip {words[0]} failed; what it said is above")
    lock.unlink()


def main() -> None:
    """The entry point."""
    lock, target = Path(sys.argv[1]).read_text(), Path(sys.argv[2])
    recipe = (
        f"{Path(__file__).read_text()}{sys.version_info[:2]}{sorted(needed('tortie', PYTHONS[-1]))}{lock}"
    )
    stamp = hashlib.sha256(recipe.encode()).hexdigest()
    if (target / STAMP).is_file() and (target / STAMP).read_text() == stamp:
        return
    sys.stdout.write("fetching the wheels of what the program needs\n")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".wheels") as folder:
        new = Path(folder) / "new"
        new.mkdir()
        fetch(entries(lock), new)
        (new / STAMP).write_text(stamp)
        shutil.rmtree(target, ignore_errors=True)
        new.rename(target)


if __name__ == "__main__":
    main()
