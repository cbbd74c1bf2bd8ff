"""Makes a newer Debian package of the same sources, for an upgrade that is one: the environment is made anew.

Promises: the checkout stays as it is. Does not know: where the package goes.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from vagrant.machines import Unmet

ROOT = Path(__file__).parent.parent
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "dist", "tests")
VERSION = re.compile(r'^version = "([^"]+)"', re.MULTILINE)
BUILD_SECONDS = 120.0


def newer(directory: Path) -> Path:
    """A package of the version after the checkout's, in `directory`. Raises Unmet."""
    wheels = [wheel for wheel in (ROOT / "dist").glob("*.whl") if not wheel.name.startswith("tortie-")]
    if not wheels:
        raise Unmet("dist has no wheels: run make deb")
    sources, built = directory / "sources", directory / "built"
    built.mkdir()
    shutil.copytree(ROOT, sources, ignore=LEFT_OUT)
    project = sources / "pyproject.toml"
    project.write_text(VERSION.sub(r'version = "\1.post1"', project.read_text(), count=1))
    _run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(built)], sources)
    for wheel in wheels:
        (built / wheel.name).symlink_to(wheel)
    _run([sys.executable, "packaging/deb.py", "--wheels", str(built)], sources)
    (made,) = built.glob("*.deb")
    return made


def _run(words: list[str], place: Path) -> None:
    done = subprocess.run(
        words, cwd=place, capture_output=True, text=True, check=False, timeout=BUILD_SECONDS
    )
    if done.returncode != 0:
        raise Unmet(f"{' '.join(words[:4])}: {done.stderr.strip()[-500:]}")
