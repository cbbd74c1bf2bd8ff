"""`tortie node diags`: one archive with all that somebody needs who was not there, and no secret in it.

Strategy. The secrets of this node are read first, from where the settings say, and whatever goes into the archive, a
tool's output, the agent's answer or a file, goes through one Redactor that knows them.
Promises: the archive is new, readable by its owner alone, and appears whole or not at all; a source that fails or takes
too long costs only itself, and MANIFEST.txt says so; every source and the whole are bounded. Nothing is changed.
Does not know: what is wrong (`node checksystem` does).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from itertools import islice
from pathlib import Path
from secrets import token_hex

from agent import control
from agent.cli.command import CommandFailed
from agent.cli.connection import config
from agent.cli.redaction import Redactor, sounds_secret
from agent.clock import SystemClock
from agent.configuration.config import Config

SOURCE_SECONDS = 15.0
MOST_SOURCE_BYTES = 8 << 20
"""The bound on each source; of a longer one the end is taken, which says what happened last."""
JOURNAL_LINES = 20_000
WITHOUT_KEYS = ("setpriv", "--inh-caps", "-net_admin", "--bounding-set", "-net_admin")
"""The kernel gives TCP's MD5 keys to CAP_NET_ADMIN, and `ss` prints them where no pattern finds them: before all else.
They may be other programs' as well."""
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "kernel/links": ("ip", "-d", "-s", "link"),
    "kernel/addresses": ("ip", "address"),
    "kernel/routes": ("ip", "route", "show", "table", "all"),
    "kernel/routes6": ("ip", "-6", "route", "show", "table", "all"),
    "kernel/rules": ("ip", "rule"),
    "kernel/rules6": ("ip", "-6", "rule"),
    "kernel/neighbours": ("ip", "-s", "neigh"),
    "kernel/nexthops": ("ip", "nexthop"),
    "kernel/fdb": ("bridge", "fdb"),
    "kernel/nftables": ("nft", "list", "ruleset"),
    "kernel/sysctls": ("sysctl", "-a", "--pattern", "^net[.]"),
    "kernel/modules": ("lsmod",),
    "kernel/messages": ("dmesg", "--ctime"),
    "host/version": ("uname", "-a"),
    "host/listeners": ("ss", "-tlnp"),
    "host/sessions": (*WITHOUT_KEYS, "ss", "-tnpi", "( sport = :179 or dport = :179 )"),
    "host/service": ("systemctl", "status", "--no-pager", "--full", "tortie-agent.service"),
    "host/journal": ("journalctl", "--no-pager", "-n", str(JOURNAL_LINES), "-u", "tortie-agent.service"),
}
"""Fixed words, run without a shell."""
QUESTIONS = ("status", "config", "addresses", "peers", "uplinks", "routes", "table", "plan")
"""What the agent is asked."""
FILES = (Path("/etc/tortie"), Path("/etc/cni/net.d"))
MOST_SECRETS = 1000
"""Files with secrets that are read, and variables of the environment."""
MOST_SECRET_BYTES = 64 << 10

Source = Callable[[], str]


def collect_diags(arguments: argparse.Namespace) -> None:
    """Collect, write, say where. Raises CommandFailed."""
    now = SystemClock().wall()
    output = Path(arguments.output or now.strftime("tortie-diags-%Y%m%d-%H%M%S.tar.gz"))
    settings = config(arguments)
    redactor = Redactor(known_secrets(settings, os.environ))
    count, failed = write_archive(output, sources(settings), now, redactor)
    print(f"{output}: {count} sources, secrets removed; {failed} gave no answer, and MANIFEST.txt says why")


def known_secrets(settings: Config, environment: Mapping[str, str]) -> Iterator[str]:
    """What nobody else may read of this node, as it is kept: passwords, keys, variables that sound like one."""
    for path in islice(_secret_files(settings), MOST_SECRETS):
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                yield file.read(MOST_SECRET_BYTES).decode(errors="replace").strip()
    for name, value in islice(environment.items(), MOST_SECRETS):
        if sounds_secret(name):
            yield value


def _secret_files(settings: Config) -> Iterator[Path]:
    for named in (settings.etcd.password_file, settings.etcd.key_file):
        if named:
            yield Path(named)
    with suppress(OSError):
        yield from (path for path in sorted(Path(settings.paths.secrets).rglob("*")) if path.is_file())


def sources(settings: Config, roots: Sequence[Path] = FILES) -> Iterator[tuple[str, Source]]:
    """Everything worth knowing, by its name in the archive."""
    hidden = {path.resolve() for path in _secret_files(settings)}
    for name, words in COMMANDS.items():
        yield f"{name}.txt", partial(_said, words)
    for question in QUESTIONS:
        yield f"agent/{question}.json", partial(_answer, settings, question)
    for root in roots:
        for path in sorted(root.rglob("*")) if root.is_dir() else ():
            if path.is_file() and path.suffix not in (".key", ".pem") and path.resolve() not in hidden:
                yield f"files{path}", partial(_contents, path)


def write_archive(
    output: Path, found: Iterator[tuple[str, Source]], now: datetime, redactor: Redactor
) -> tuple[int, int]:
    """Write the archive; how many sources there were and how many failed. Raises CommandFailed."""
    manifest, failed, count = [], 0, 0
    # Nobody can know the name before, so in a directory of others' no file of theirs is in the way.
    unfinished = output.with_name(f".{output.name}.{token_hex(8)}")
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
            for name, source in found:
                text, why = _collected(source, redactor)
                count, failed = count + 1, failed + (why is not None)
                manifest.append(f"{name}: {why or f'{len(text)} characters'}")
                _add(archive, name, text, now)
            _add(archive, "MANIFEST.txt", "\n".join(manifest) + "\n", now)
        os.link(unfinished, output)  # unlike a rename it takes nobody's place
    except FileExistsError:
        raise CommandFailed(f"{output} exists already; choose another --output") from None
    except OSError as error:
        raise CommandFailed(f"{output}: {error.strerror}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return count, failed


def _collected(source: Source, redactor: Redactor) -> tuple[str, str | None]:
    try:
        # Not the other way round: of a secret that was cut in two nobody knows the rest.
        return redactor(source())[-MOST_SOURCE_BYTES:], None
    except (OSError, ValueError, CommandFailed, subprocess.SubprocessError, control.NotRunning) as error:
        return "", redactor(f"no answer: {error}")


def _said(words: tuple[str, ...]) -> str:
    done = subprocess.run(
        words, capture_output=True, timeout=SOURCE_SECONDS, check=False, env={**os.environ, "LC_ALL": "C"}
    )
    return (done.stdout + done.stderr).decode(errors="replace")


def _contents(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(MOST_SOURCE_BYTES).decode(errors="replace")


def _answer(settings: Config, question: str) -> str:
    return json.dumps(control.ask(settings.control_socket, question), indent=1, default=str)


def _add(archive: tarfile.TarFile, name: str, text: str, now: datetime) -> None:
    content = text.encode()
    entry = tarfile.TarInfo(f"tortie-diags/{name.lstrip('/')}")
    entry.size, entry.mode, entry.mtime = len(content), 0o600, int(now.timestamp())
    archive.addfile(entry, io.BytesIO(content))
