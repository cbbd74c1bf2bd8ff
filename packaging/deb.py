"""Builds the Debian package: unit files where Debian has them, and wheels from which the host makes the environment.

`python3 packaging/deb.py --wheels dist --revision 1` writes dist/tortie_VERSION-REVISION_ARCH.deb; it needs dpkg-deb.
The environment is made by postinst with the host's own Python, by the same code as `tortie install`: one that came
ready-made would break with the host's next Python. The package is for every Python whose wheels are there.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parent.parent
SCRIPTS = ("postinst", "prerm", "postrm")
TRIGGERS = "interest-noawait /usr/bin/python3\n"
"""Another interpreter comes with an upgrade of Debian: postinst makes the environment anew."""
PLACES = {
    "tortie-agent.service": "usr/lib/systemd/system",
    "tortie-drain.service": "usr/lib/systemd/system",
    "tortie-bfd.service": "usr/lib/systemd/system",
    "network/10-tortie.link": "usr/lib/systemd/network",
    "network/10-tortie.network": "usr/lib/systemd/network",
    "networkd.conf.d/tortie.conf": "usr/lib/systemd/networkd.conf.d",
    "modules-load.d/tortie.conf": "usr/lib/modules-load.d",
    "sysctl.d/60-tortie.conf": "usr/lib/sysctl.d",
    "tmpfiles.d/tortie.conf": "usr/lib/tmpfiles.d",
    "NetworkManager/tortie.conf": "usr/lib/NetworkManager/conf.d",
}
SHARED = {
    "bash-completion/completions/tortie": "usr/share/bash-completion/completions",
    "zsh/site-functions/_tortie": "usr/share/zsh/vendor-completions",
    "fish/vendor_completions.d/tortie.fish": "usr/share/fish/vendor_completions.d",
}
WHEELS = "usr/share/tortie/wheels"
BOUND = re.compile(r"([^-]+)-.*-cp3(\d+)-cp3\d+-[^-]+\.whl")
"""A wheel for one Python alone."""
COMMANDS = ("tortie", "tortie-agent")
MAINTAINER = "Tortie maintainers <maintainers@tortie.example>"
CONTROL = """\
Package: tortie
Version: {version}
Architecture: {architecture}
Maintainer: {maintainer}
Installed-Size: {kilobytes}
Depends: {python}, python3-venv, iproute2
Recommends: nftables
Section: net
Priority: optional
Description: node agent for pod routes: IPAM in etcd, CNI, netlink and BGP
 Tortie programs the routes of containers on a Linux node. It keeps addresses
 in etcd in Calico's layout, answers container runtimes as a CNI plugin,
 programs the kernel by netlink and exchanges routes with other nodes by BGP.
"""


def stage(tree: Path, wheels: Path, version: str) -> None:
    """Everything but the control files."""
    for source, target in PLACES.items():
        _copy(ROOT / "systemd" / source, tree / target / Path(source).name, 0o644)
    for source, target in SHARED.items():
        _copy(ROOT / "share" / source, tree / target / Path(source).name, 0o644)
    page = (ROOT / "share/man/man1/tortie.1").read_bytes()
    _write(tree / "usr/share/man/man1/tortie.1.gz", gzip.compress(page, 9, mtime=0), 0o644)
    for wheel in sorted(wheels.glob("*.whl")):
        _copy(wheel, tree / WHEELS / wheel.name, 0o644)
    for name in COMMANDS:
        text = f'#!/bin/sh\nexec /opt/tortie/current/bin/{name} "$@"\n'
        _write(tree / "usr/bin" / name, text.encode(), 0o755)
    documents = tree / "usr/share/doc/tortie"
    _write(documents / "copyright", copyright_text().encode(), 0o644)
    entry = f"tortie ({version}) unstable; urgency=medium\n\n  * See CHANGELOG.md.\n\n -- {MAINTAINER}  {stamp()}\n"
    _write(documents / "changelog.Debian.gz", gzip.compress(entry.encode(), 9, mtime=0), 0o644)


def stamp() -> str:
    """When the last commit was made; a build without one has no date of its own."""
    words = ["git", "log", "-1", "--format=%aD"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "Thu, 01 Jan 1970 00:00:00 +0000"


def copyright_text() -> str:
    """Debian's machine-readable form, for a licence that Debian ships."""
    return (
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\n"
        "Files: *\nCopyright: 2026 the Tortie authors\nLicense: Apache-2.0\n"
        " On Debian systems the full text is in /usr/share/common-licenses/Apache-2.0.\n"
    )


def control(tree: Path, version: str) -> None:
    """The control files."""
    files = sorted(path for path in tree.rglob("*") if path.is_file())
    sums = "".join(
        f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(tree)}\n" for path in files
    )
    architecture = subprocess.run(
        ["dpkg", "--print-architecture"], check=True, capture_output=True, text=True
    ).stdout.strip()
    text = CONTROL.format(
        version=version,
        architecture=architecture,
        maintainer=MAINTAINER,
        kilobytes=sum(path.stat().st_size for path in files) // 1024,
        python=interpreters(tree / WHEELS),
    )
    _write(tree / "DEBIAN/control", text.encode(), 0o644)
    _write(tree / "DEBIAN/triggers", TRIGGERS.encode(), 0o644)
    _write(tree / "DEBIAN/md5sums", sums.encode(), 0o644)
    for script in SCRIPTS:
        _copy(ROOT / "packaging/debian" / script, tree / "DEBIAN" / script, 0o755)


def interpreters(wheels: Path) -> str:
    """The Pythons that all wheels are for, in the words of Depends."""
    found: dict[str, set[int]] = {}
    for path in wheels.glob("*.whl"):
        if bound := BOUND.fullmatch(path.name):
            found.setdefault(bound[1], set()).add(int(bound[2]))
    minors = sorted(set.intersection(*found.values())) if found else []
    if not minors:
        sys.exit(f"{wheels}: no Python has all of its wheels there; run: make wheels")
    words = [f"python3 (>= 3.{minors[0]}~)"]
    for one, following in pairwise(minors):
        if following != one + 1:
            words.append(f"python3 (<< 3.{one + 1}~) | python3 (>= 3.{following}~)")
    return ", ".join([*words, f"python3 (<< 3.{minors[-1] + 1}~)"])


def _write(path: Path, content: bytes, mode: int) -> None:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)


def _copy(source: Path, target: Path, mode: int) -> None:
    _write(target, source.read_bytes(), mode)


def main() -> None:
    """The entry point."""
    flags = argparse.ArgumentParser(description="build the Debian package")
    flags.add_argument("--wheels", type=Path, default=Path("dist"))
    flags.add_argument("--revision", type=int, default=1)
    arguments = flags.parse_args()
    (wheel,) = arguments.wheels.glob("tortie-*.whl")
    found = re.match(r"tortie-([^-]+)-", wheel.name)
    if found is None or shutil.which("dpkg-deb") is None:
        sys.exit("a wheel of tortie and dpkg-deb are needed: make wheels; apt install dpkg")
    version = f"{found[1]}-{arguments.revision}"
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        tree.mkdir(mode=0o755)
        stage(tree, arguments.wheels, version)
        control(tree, version)
        # Most of it is compressed already.
        words = [
            "dpkg-deb",
            "--root-owner-group",
            "-Zgzip",
            "-z1",
            "--build",
            str(tree),
            str(arguments.wheels),
        ]
        sys.stdout.write(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
