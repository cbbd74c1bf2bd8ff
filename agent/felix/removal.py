"""Takes away what Calico left, and puts it back, through nft(8), iptables(8) and ipset(8).

Strategy. The undo file comes first and is on the disk before anything goes: the text of nft(8) and iptables-save(8) for
what is Calico's alone, in sections that begin with the program that takes them. These programs, rather than netlink,
because only they can write down what the extensions of iptables hold. Each section is tried (`--check`, `--test`)
before it counts, so a text that could not be put back ends the removal before it begins.
Promises: nothing but Calico's is named in any command; each table changes in one transaction; nothing is removed while
a program of Calico's runs, or if the undo file is there already; what an undo file may hold is what this module writes.
Does not know: who asks, what is printed.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from agent.durable_files import sync_directory
from agent.felix.felix_rules import COMMENT_PREFIX, FilterRemains, FilterTable, is_calicos_chain

PROGRAM_SECONDS = 60.0
MOST_UNDO_BYTES = 64 << 20
FILE_MODE = 0o600
SECTION = "#! "
"""Begins a section of an undo file; the program follows."""
HEAD = "# What Calico left on this machine; `tortie node remove-calico --undo` puts it back."
NFT = "nft"
IPSET = "ipset"
RESTORES = {
    ("nftables", "ip"): "iptables-nft-restore",
    ("nftables", "ip6"): "ip6tables-nft-restore",
    ("iptables-legacy", "ip"): "iptables-legacy-restore",
    ("iptables-legacy", "ip6"): "ip6tables-legacy-restore",
}
PROGRAMS = (IPSET, NFT, *RESTORES.values())
"""In the order in which an undo file is carried out: rules may name sets."""
PLACES = "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"
SET_NAME = re.compile(r"cali[46][A-Za-z0-9:_-]*")
"""Felix's sets: `cali40…`, `cali60…`, and those being replaced."""
MOST_SETS = 65536


class RemovalFailed(Exception):
    """One sentence: what could not be done, and what holds now."""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of an undo file: the text that one program takes."""

    program: str
    text: str


def calicos_sets() -> tuple[str, ...]:
    """The ipsets that are Calico's; none without ipset(8). Raises RemovalFailed."""
    if _found(IPSET) is None:
        return ()
    names = _run([IPSET, "list", "-name"]).splitlines()[:MOST_SETS]
    return tuple(name for name in names if SET_NAME.fullmatch(name))


def undo_sections(remains: FilterRemains, sets: Iterable[str]) -> list[Section]:
    """What puts everything back, read now and tried. Raises RemovalFailed."""
    found = [Section(IPSET, "".join(f"{_run([IPSET, 'save', name])}\n" for name in sets))]
    for table in remains.tables:
        if table.is_calicos:
            found.append(Section(NFT, _run([NFT, "list", "table", table.family, table.name])))
        else:
            program = _restoring(table)
            text = _run([program.replace("restore", "save"), "-c", "-t", table.name])
            found.append(Section(program, restoring_text(text, table.name)))
    sections = [section for section in found if section.text.strip()]
    for section in sections:
        if section.program != IPSET:
            _carry_out(section, test=True)
    return sections


def _restoring(table: FilterTable) -> str:
    program = RESTORES.get((table.origin, table.family))
    if program is None:
        raise RemovalFailed(
            f"{table} has chains of Calico's, which no iptables writes there; look at them yourself"
        )
    return program


def _rules_of(save: str) -> Iterator[tuple[str, str, str]]:
    """Each rule of iptables-save's text: its counters, chain and line."""
    for line in save.splitlines():
        matched = re.fullmatch(r"(\[\d+:\d+\] )?(-A (\S+) .+)", line)
        if matched:
            yield matched[1] or "", matched[3], matched[2]


def _is_calicos(line: str) -> bool:
    """Whether a rule in a chain of others is Calico's, by the chain it leads to or the comment."""
    try:
        words = shlex.split(line)
    except ValueError:
        return False
    return any(
        (option in ("-j", "-g") and is_calicos_chain(value))
        or (option == "--comment" and value.startswith(COMMENT_PREFIX))
        for option, value in pairwise(words)
    )


def restoring_text(save: str, table: str) -> str:
    """iptables-restore's text that puts back what is Calico's in a table, rules of others' chains in their places."""
    lines = [f"*{table}"]
    lines += [
        line for line in save.splitlines() if line.startswith(":") and is_calicos_chain(line[1:].split()[0])
    ]
    rules = list(_rules_of(save))
    for counters, chain, line in rules:
        if is_calicos_chain(chain):
            lines.append(counters + line)
    for name in dict.fromkeys(chain for _, chain, _ in rules if not is_calicos_chain(chain)):
        own = [rule for rule in rules if rule[1] == name]
        last = max((n for n, rule in enumerate(own) if not _is_calicos(rule[2])), default=-1)
        for number, (counters, _, line) in enumerate(own):
            if _is_calicos(line):
                placed = line if number > last else line.replace(f"-A {name}", f"-I {name} {number + 1}", 1)
                lines.append(counters + placed)
    return "\n".join([*lines, "COMMIT", ""])


def removing_text(save: str, table: str) -> str:
    """iptables-restore's text that takes away what is Calico's in a table, in one transaction."""
    rules = [(chain, line) for _, chain, line in _rules_of(save)]
    lines = [f"*{table}"]
    lines += [
        line.replace("-A", "-D", 1)
        for chain, line in rules
        if not is_calicos_chain(chain) and _is_calicos(line)
    ]
    chains = [line[1:].split()[0] for line in save.splitlines() if line.startswith(":")]
    own = [name for name in chains if is_calicos_chain(name)]
    lines += [f"-F {name}" for name in own]
    lines += [f"-X {name}" for name in own]
    return "\n".join([*lines, "COMMIT", ""])


def remove(remains: FilterRemains, sets: Sequence[str]) -> None:
    """Take it away. Raises RemovalFailed; what is gone by then is gone, and in the undo file."""
    for table in remains.tables:
        if table.is_calicos:
            _carry_out(Section(NFT, f"delete table {table.family} {table.name}\n"))
        else:
            program = _restoring(table)
            save = _run([program.replace("restore", "save"), "-t", table.name])
            _carry_out(Section(program, removing_text(save, table.name)))
    for name in sets:
        _run([IPSET, "destroy", name])


def write_undo(path: Path, sections: Iterable[Section]) -> None:
    """A new file for root alone, on the disk when this returns. Raises RemovalFailed."""
    text = "".join(f"{SECTION}{section.program}\n{section.text.rstrip()}\n" for section in sections)
    content = f"{HEAD}\n{text}".encode()
    if len(content) > MOST_UNDO_BYTES:
        raise RemovalFailed(
            f"the undo file would have {len(content)} bytes, at most {MOST_UNDO_BYTES} are kept"
        )
    try:
        descriptor = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE
        )
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        sync_directory(path.absolute().parent)
    except OSError as error:
        raise RemovalFailed(f"the undo file {path} cannot be written: {error.strerror}") from error


def read_undo(path: Path) -> list[Section]:
    """The sections of an undo file that root alone could have written. Raises RemovalFailed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
                raise RemovalFailed(
                    f"{path} is not a file of root's alone (mode 0600): it is not carried out"
                )
            content = file.read(MOST_UNDO_BYTES + 1)
    except OSError as error:
        raise RemovalFailed(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > MOST_UNDO_BYTES:
        raise RemovalFailed(f"{path} has more than {MOST_UNDO_BYTES} bytes")
    head, *parts = re.split(rf"^{SECTION}(.*)\n", content.decode(errors="replace"), flags=re.MULTILINE)
    if head.strip() != HEAD:
        raise RemovalFailed(f"{path} is no undo file of `tortie node remove-calico`")
    sections = [Section(*pair) for pair in zip(parts[::2], parts[1::2], strict=True)]
    for section in sections:
        _require_calicos(path, section)
    return sections


OWN_LINES = {
    NFT: re.compile(r"table \S+ calico \{|\t(?!\s*include).*|\}|"),
    IPSET: re.compile(rf"(?:create|add) {SET_NAME.pattern} .*|"),
}
RESTORE_LINE = re.compile(
    r"\*(?:filter|nat|mangle|raw)|:(\S+) - \[\d+:\d+\]|(?:\[\d+:\d+\] )?-[AI] (\S+) .+|COMMIT|"
)


def _require_calicos(path: Path, section: Section) -> None:
    """Raises RemovalFailed for a line that says anything of what is not Calico's."""
    for line in section.text.split("\n"):
        if section.program in OWN_LINES:
            fits = OWN_LINES[section.program].fullmatch(line) is not None
        else:
            matched = RESTORE_LINE.fullmatch(line) if section.program in PROGRAMS else None
            chain = (matched[1] or matched[2]) if matched is not None else None
            fits = matched is not None and (chain is None or is_calicos_chain(chain) or _is_calicos(line))
        if not fits:
            raise RemovalFailed(f"{path} says what is not Calico's: {section.program}: {line[:80]!r}")


def put_back(sections: Sequence[Section], present: FilterRemains) -> None:
    """Carry an undo file out, in place of what is there of Calico's. Raises RemovalFailed at the first refusal."""
    sets = [section for section in sections if section.program == IPSET]
    rules = [section for section in sections if section.program != IPSET]
    for section in sets:  # rules may name them
        _carry_out(section)
    for section in rules:
        _carry_out(section, test=True)
    remove(present, ())
    for section in rules:
        _carry_out(section)


def _carry_out(section: Section, *, test: bool = False) -> None:
    if section.program == NFT:
        words = [NFT, *(["--check"] if test else []), "-f", "-"]
    elif section.program == IPSET:
        words = [IPSET, "restore", "-exist"]
    else:
        words = [section.program, "--noflush", "--counters", "--wait=5", *(["--test"] if test else [])]
    _run(words, section.text)


def _found(program: str) -> str | None:
    return shutil.which(program, path=PLACES)


def _run(words: Sequence[str], text: str = "") -> str:
    """A program's answer. Raises RemovalFailed."""
    program = _found(words[0])
    if program is None:
        package = {NFT: "nftables", IPSET: "ipset"}.get(words[0], "iptables")
        raise RemovalFailed(f"{words[0]} is needed and not installed: apt install {package}")
    try:
        done = subprocess.run(
            [program, *words[1:]],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=PROGRAM_SECONDS,
            env={"PATH": PLACES, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RemovalFailed(f"{' '.join(words)}: {error}") from error
    if done.returncode:
        raise RemovalFailed(
            f"{' '.join(words)}: {done.stderr.strip()[:500] or f'exit code {done.returncode}'}"
        )
    return done.stdout
