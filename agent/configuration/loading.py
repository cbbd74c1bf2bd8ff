"""Settings from a file, the files beside it in conf.d, the environment and flags; the last word wins.

Promises: one checked value, and for each key the source that had the last word; an unknown key, a wrong type and
a wrong value are one sentence that names where it stands. A table or list is replaced as a whole.
Does not know: what a setting means.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from agent.configuration.config import Config, ConfigError, UplinkSettings, check
from agent.foreign_files import read_file

DEFAULT_FILE = Path("/etc/tortie/agent.toml")
DROP_INS = "conf.d"
"""Beside the file; `*.toml` in the order of their names."""
MOST_DROP_INS = 100
MOST_FILE_BYTES = 1 << 20
PREFIX = "TORTIE_"
DEFAULT = "default"
TABLES: Mapping[str, type[Struct]] = {"bgp.uplink": UplinkSettings}
"""Keys whose value is a list of tables, and what each table is."""
CALICO_ENVIRONMENT = {
    "ETCD_ENDPOINTS": "etcd.endpoints",
    "ETCD_CA_CERT_FILE": "etcd.ca_file",
    "ETCD_CERT_FILE": "etcd.cert_file",
    "ETCD_KEY_FILE": "etcd.key_file",
    "ETCD_USERNAME": "etcd.username",
    "NODENAME": "node.name",
    "CALICO_K8S_NODE_REF": "kubernetes.node_name",
    "IP_AUTODETECTION_METHOD": "node.method",
    "IP6_AUTODETECTION_METHOD": "node.method6",
}
"""What calicoctl's users have in their environment already; TORTIE_* goes first."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One key as it is in force."""

    key: str
    value: Any
    origin: str
    """A file, a variable, a flag, or `default`."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings with the origin of each."""

    config: Config
    origins: Mapping[str, str]
    """`section.key` -> the source that set it last; a default has none."""

    def settings(self) -> Iterator[Setting]:
        """Every key in force, in the schema's order."""
        for section in Config.__struct_fields__:
            values = getattr(self.config, section)
            for key in values.__struct_fields__:
                dotted = f"{section}.{key}"
                yield Setting(dotted, getattr(values, key), self.origins.get(dotted, DEFAULT))


def load(path: Path | None, environment: Mapping[str, str], flags: Mapping[str, str]) -> Config:
    """Read, overlay and check. `flags` maps `section.key` to text.

    A file named on purpose must exist; the default one may be missing. Raises ConfigError.
    """
    return loaded(path, environment, flags).config


def loaded(path: Path | None, environment: Mapping[str, str], flags: Mapping[str, str]) -> Loaded:
    """Settings with the origin of each value; `flags` maps `section.key` to text. Raises ConfigError."""
    raw: dict[str, dict[str, Any]] = {}
    origins: dict[str, str] = {}

    def override(dotted: str, value: Any, origin: str) -> None:
        section, key = dotted.split(".")
        raw.setdefault(section, {})[key] = value
        origins[dotted] = origin

    for file in _files(path):
        for section, keys in _read(file).items():
            for key, value in keys.items():
                override(f"{section}.{key}", value, str(file))
    for name, dotted in _variables(environment).items():
        override(dotted, _parsed(dotted, environment[name], name), name)
    for dotted, text in flags.items():
        flag = f"--{dotted.replace('.', '-').replace('_', '-')}"
        override(dotted, _parsed(dotted, text, flag), flag)
    config = msgspec.convert(raw, Config)
    try:
        check(config)
    except ConfigError as error:
        origin = origins.get(str(error).partition(":")[0])
        raise ConfigError(f"{origin}: {error}" if origin else str(error)) from None
    return Loaded(config, origins)


def _files(path: Path | None) -> list[Path]:
    source = path or DEFAULT_FILE
    if path is not None and not path.exists():
        raise ConfigError(f"{path}: no such file; name an existing one with --config, or leave it out")
    try:
        beside = sorted((source.parent / DROP_INS).glob("*.toml"), key=lambda file: file.name)
    except OSError as error:
        raise ConfigError(f"{source.parent / DROP_INS}: cannot be read: {error}") from error
    if len(beside) > MOST_DROP_INS:
        raise ConfigError(f"{source.parent / DROP_INS}: more than {MOST_DROP_INS} files; put them together")
    return [*([source] if source.exists() else []), *beside]


def _read(file: Path) -> dict[str, dict[str, Any]]:
    """One file, its keys and types checked."""
    try:
        raw = tomllib.loads(read_file(file, MOST_FILE_BYTES).decode())
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{file}: not TOML: {error}") from error
    try:
        msgspec.convert(raw, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{file}: {_sentence(str(error))}") from error
    return raw


def section_type(name: str) -> type[Struct]:
    """The struct behind a section's name."""
    kind = type(getattr(Config(), name))
    assert issubclass(kind, Struct)
    return kind


def _variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Variable -> `section.key`, the weaker first. Raises ConfigError for one that means nothing."""
    known = {
        f"{PREFIX}{section}_{key}".upper(): f"{section}.{key}"
        for section in Config.__struct_fields__
        for key in section_type(section).__struct_fields__
    }
    sections = tuple(f"{PREFIX}{section}_".upper() for section in Config.__struct_fields__)
    for name in environment:
        if name.startswith(sections) and name not in known:
            raise ConfigError(f"{name}: unknown variable{_nearest(name, known)}")
    calicos = {name: dotted for name, dotted in CALICO_ENVIRONMENT.items() if environment.get(name)}
    return calicos | {name: dotted for name, dotted in known.items() if name in environment}


def _parsed(dotted: str, text: str, origin: str) -> Any:
    section, key = dotted.split(".")
    default = getattr(getattr(Config(), section), key)
    if dotted in TABLES:
        raise ConfigError(f"{origin}: tables are written in a file, as [[{dotted}]]")
    try:
        if isinstance(default, list):
            return [part.strip() for part in text.split(",") if part.strip()]
        if isinstance(default, dict):
            return dict(part.split("=", 1) for part in text.split(",") if part)
        if isinstance(default, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(default, int | float):
            return type(default)(text)
    except (ValueError, KeyError):
        raise ConfigError(f"{origin}: {text!r} is not a value for {dotted}") from None
    return text


def _nearest(word: str, known: Mapping[str, Any] | tuple[str, ...]) -> str:
    close = difflib.get_close_matches(word, tuple(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _sentence(message: str) -> str:
    fault, _, path = message.partition(" - at ")
    dotted = path.strip("`").removeprefix("$").removeprefix(".")
    unknown = re.search(r"unknown field `([^`]*)`", message)
    if not unknown:
        return f"{dotted}: {fault[0].lower()}{fault[1:].replace('`', '')}"
    table = TABLES.get(dotted.partition("[")[0])
    if table is not None:
        known = table.__struct_encode_fields__
    else:
        known = section_type(dotted).__struct_fields__ if dotted else Config.__struct_fields__
    key = f"{dotted}.{unknown[1]}" if dotted else unknown[1]
    return f"{key}: unknown key{_nearest(unknown[1], known)}"
