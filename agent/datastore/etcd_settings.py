"""From settings to a connected datastore: the one place where etcd settings become the store's own.

Promises: the password and the key are read from files that nobody but their owner and group may read.
Does not know: where settings come from, requests.
"""

from __future__ import annotations

import os
from pathlib import Path

from agent.configuration.config import ConfigError, EtcdSettings
from agent.foreign_files import read_file
from ipam.etcd.channels import Channels
from ipam.etcd.etcd_config import EtcdConfig
from ipam.failures import StoreUnavailable

MOST_PASSWORD_BYTES = 4096
MOST_TLS_BYTES = 1 << 20
"""A whole bundle of certificate authorities is a quarter of that."""


def etcd_config(settings: EtcdSettings) -> EtcdConfig:
    """The datastore's settings as the store takes them. Raises ConfigError, naming what is wrong."""
    if settings.key_file:
        _check_owners_only("etcd.key_file", Path(settings.key_file))
    try:
        return EtcdConfig(
            endpoints=tuple(settings.endpoints),
            ca_file=settings.ca_file or None,
            cert_file=settings.cert_file or None,
            key_file=settings.key_file or None,
            username=settings.username or None,
            password=_password(settings),
            fresh_password=(lambda: _again(settings)) if settings.password_file else None,
            read_file=lambda path: read_file(path, MOST_TLS_BYTES),
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


def check_files(settings: EtcdSettings) -> None:
    """That the password can be read and the TLS files can be used together. Raises ConfigError."""
    try:
        Channels(etcd_config(settings))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _again(settings: EtcdSettings) -> str | None:
    """The password as the file has it now. Raises StoreUnavailable: while we run, a wrong file is an outage."""
    try:
        return _password(settings)
    except ConfigError as error:
        raise StoreUnavailable(str(error)) from error


def _check_owners_only(key: str, path: Path) -> None:
    """Raise ConfigError for a file with a secret that is not there, or that others than owner and group may read."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise ConfigError(f"{key}: {path}: {error.strerror}") from error
    if mode & 0o027:
        raise ConfigError(
            f"{key}: {path} has mode {mode & 0o777:04o}: too open for a secret; chmod it to 0640 or less"
        )


def _password(settings: EtcdSettings) -> str | None:
    """The password from its file, which nobody but its owner and group may read. Raises ConfigError."""
    if not settings.password_file:
        return None
    path = Path(settings.password_file)
    _check_owners_only("etcd.password_file", path)
    try:
        return read_file(path, MOST_PASSWORD_BYTES).decode().rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"etcd.password_file: {path}: cannot be read: {error}") from error
