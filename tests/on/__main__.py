"""Runs the suite on another Debian: `python -m tests.on trixie --packages "etcd-server …" [-- COMMAND …]`.

Promises: the output and the exit status are the command's own, by default the whole suite's. The system is a tree of
that Debian (fixtures/debian_root), made once, kept, and only read; the checkout is copied into memory as it is now; the
virtual environment is of that system's Python, and kept for each lock. What runs has mounts, processes and a network of
its own, which end with it. Of this machine it sees the kernel, and until the environment is ready also the network and
the files that the caller's variables name for pip. Does not know: what is tested, what differs there (docs/systems.md).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests import ROOT
from tests.fixtures import debian_root
from tests.suite import isolation

CHECKOUT = ROOT
ENTER = Path(__file__).parent / "enter"
PYTHON = ".venv/bin/python"
"""In the checkout, where a command starts."""
SUITE = (PYTHON, "-m", "tests.suite")
NEEDED = ("ca-certificates", "git", "make")
"""Whoever has a checkout on a machine has them there."""
MAKES_AN_ENVIRONMENT = ("pyproject.toml", "requirements.lock")
FOR_PIP = (
    *("PIP_CERT", "PIP_DEFAULT_TIMEOUT", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_INDEX_URL"),
    *("PIP_TRUSTED_HOST", "REQUESTS_CA_BUNDLE", "SSL_CERT_DIR", "SSL_CERT_FILE"),
    *("all_proxy", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
)
"""What the caller's package index may need."""
CALLERS = Path("/run/callers")
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
FOR_A_ROOT_OF_ITS_OWN = {"PIP_NO_CACHE_DIR": "1", "PIP_ROOT_USER_ACTION": "ignore"}


def environment(callers: Mapping[str, str]) -> tuple[dict[str, str], dict[str, Path]]:
    """The variables of a run, and the files that it must find as `/run/callers/NAME` for their sake."""
    found = {**isolation.environment(callers), **FOR_A_ROOT_OF_ITS_OWN}
    files: dict[str, Path] = {}
    for name in FOR_PIP:
        value = callers.get(name)
        if value is None:
            continue
        if value.startswith("/") and Path(value).exists():
            files[name] = Path(value)
            value = str(CALLERS / name)
        found[name] = value
    return found, files


def environment_name(suite: str, tree: Path, checkout: Path) -> str:
    """A name for a virtual environment: of the system and of what is installed."""
    made_of = b"\0".join((checkout / name).read_bytes() for name in MAKES_AN_ENVIRONMENT)
    return f"venv-{suite}-{hashlib.sha256(tree.name.encode() + made_of).hexdigest()[:12]}"


def run(
    tree: Path, venv: Path, cache: Path, checkout: Path, callers: Mapping[str, str], command: Sequence[str]
) -> int:
    """The command's exit status; everything it started has ended."""
    variables, files = environment(callers)
    venv.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tortie-on-") as directory:
        work, listed = Path(directory) / "root", Path(directory) / "callers"
        work.mkdir()
        listed.write_text("".join(f"{name} {path}\n" for name, path in files.items()))
        spaces = [
            "--mount",
            "--pid",
            "--ipc",
            "--uts",
            "--propagation",
            "private",
            "--fork",
            "--kill-child=KILL",
        ]
        words = [ENTER, tree, checkout, venv, cache, work, listed, *command]
        process = subprocess.Popen(
            ["unshare", *spaces, *map(str, words)], stdin=subprocess.DEVNULL, env=variables, umask=0o022
        )
        before = {number: signal.signal(number, lambda *_: process.kill()) for number in ENDING}
        try:
            status = process.wait()
        finally:
            process.kill()
            for number, handler in before.items():
                signal.signal(number, handler)
    return status if status >= 0 else 128 - status


def main() -> None:
    """Make what is not there yet, and run."""
    flags = argparse.ArgumentParser(
        prog="python -m tests.on", usage="%(prog)s SUITE --packages NAMES [-- COMMAND ...]"
    )
    flags.add_argument("suite", choices=debian_root.SUITES)
    flags.add_argument("--packages", type=str.split, required=True, help="what the tests need")
    words = sys.argv[1:]
    at = words.index("--") if "--" in words else len(words)
    arguments, command = flags.parse_args(words[:at]), words[at + 1 :] or SUITE
    if os.geteuid() != 0:
        sys.exit("a root of another system needs root, for example with sudo")
    try:
        tree = debian_root.root(arguments.suite, sorted({*arguments.packages, *NEEDED}))
        for one in debian_root.SUITES:  # for the tests' machines, which have no network to make theirs with
            debian_root.root(one)
    except debian_root.RootFailed as error:
        sys.exit(str(error))
    cache = debian_root.CACHE
    venv = cache / environment_name(arguments.suite, tree, CHECKOUT)
    sys.exit(run(tree, venv, cache, CHECKOUT, os.environ, command))


if __name__ == "__main__":
    main()
