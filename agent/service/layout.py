"""Where an installed agent's files are; a core: names only.

Promises: everything `tortie install` places is in this table, and `tortie uninstall` removes by the same table.
Does not know: how files are written.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath as Path

AGENT_UNIT, DRAIN_UNIT = "tortie-agent.service", "tortie-drain.service"
BFD_UNIT = "tortie-bfd.service"
UNITS = (AGENT_UNIT, DRAIN_UNIT, BFD_UNIT)
"""Enabled with the installation."""
HOME = Path("opt/tortie")
"""A virtual environment per version, and `current`, a link to the one in use."""
CURRENT = HOME / "current"
CONFIGURATION = Path("etc/tortie")
SETTINGS = CONFIGURATION / "agent.toml"
STATE = Path("var/lib/tortie")
RECORD = STATE / "before.json"
"""What the machine was like before the first installation."""
RUN = Path("run/tortie")
WANTS = Path("etc/systemd/system/multi-user.target.wants")


@dataclass(frozen=True, slots=True)
class PlacedFile:
    """A file of systemd/ and where it goes, from the root on."""

    source: str
    target: Path


FILES = (
    PlacedFile(AGENT_UNIT, Path("etc/systemd/system") / AGENT_UNIT),
    PlacedFile(DRAIN_UNIT, Path("etc/systemd/system") / DRAIN_UNIT),
    PlacedFile(BFD_UNIT, Path("etc/systemd/system") / BFD_UNIT),
    PlacedFile("modules-load.d/tortie.conf", Path("etc/modules-load.d/tortie.conf")),
    PlacedFile("sysctl.d/60-tortie.conf", Path("etc/sysctl.d/60-tortie.conf")),
    PlacedFile("tmpfiles.d/tortie.conf", Path("etc/tmpfiles.d/tortie.conf")),
    PlacedFile("network/10-tortie.link", Path("etc/systemd/network/10-tortie.link")),
    PlacedFile("network/10-tortie.network", Path("etc/systemd/network/10-tortie.network")),
    PlacedFile("networkd.conf.d/tortie.conf", Path("etc/systemd/networkd.conf.d/tortie.conf")),
    PlacedFile("NetworkManager/tortie.conf", Path("etc/NetworkManager/conf.d/tortie.conf")),
)

COMMANDS = {
    Path("usr/local/bin/tortie"): Path("/opt/tortie/current/bin/tortie"),
    Path("usr/local/bin/tortie-agent"): Path("/opt/tortie/current/bin/tortie-agent"),
    **{
        Path("usr/local/share") / name: Path("/opt/tortie/current/share") / name
        for name in (
            "man/man1/tortie.1",
            "bash-completion/completions/tortie",
            "zsh/site-functions/_tortie",
            "fish/vendor_completions.d/tortie.fish",
        )
    },
}
"""Links where everybody looks: commands, the manual page, what shells complete."""

CNI_DIRECTORIES = (Path("opt/cni/bin"), Path("etc/cni/net.d"))
OWN_DIRECTORIES = (HOME, CONFIGURATION, STATE, RUN)
"""Ours whole, where the operator keeps nothing."""

SKELETON = """\
# Tortie's node agent. Every key may be left out; what is here commented is the default.
# After a change: systemctl reload tortie-agent (wrong settings are refused, and those in force stay).

[node]
# name = ""            # the host name
# address = ""         # ADDRESS/LENGTH on the underlay; found by itself when empty

[etcd]
# endpoints = ["http://127.0.0.1:2379"]
# ca_file = ""
# cert_file = ""
# key_file = ""
# username = ""
# password_file = ""   # mode 0640 or less

[bgp]
# hold_seconds = 90
# restart_seconds = 120

[log]
# level = "info"
# format = "human"
"""


def parents(path: Path) -> tuple[Path, ...]:
    """The directories above a path, the deepest first; the root is not among them."""
    return tuple(one for one in path.parents if one != Path("."))


def directories() -> tuple[Path, ...]:
    """Every directory that an installation may have to make, the deepest first."""
    above = [one for placed in FILES for one in parents(placed.target)]
    above += [one for link in COMMANDS for one in parents(link)]
    for own in (*OWN_DIRECTORIES, *CNI_DIRECTORIES, WANTS):
        above += [own, *parents(own)]
    return tuple(sorted(set(above), key=lambda one: (-len(one.parts), str(one))))
