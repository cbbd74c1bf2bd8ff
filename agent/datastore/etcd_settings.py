"""From settings to a connected datastore: the one place where etcd settings become the store's own."""

from __future__ import annotations

from pathlib import Path

from agent.configuration.config import ConfigError, EtcdSettings, only_its_owners, password
from ipam.etcd.channels import Channels
from ipam.etcd.etcd_config import EtcdConfig
from ipam.failures import StoreUnavailable


def etcd_config(settings: EtcdSettings) -> EtcdConfig:
    """The datastore's settings as the store takes them. Raises ConfigError, naming what is wrong."""
    for file in (settings.key_file,) if settings.key_file else ():
        only_its_owners("etcd.key_file", Path(file))
    try:
        return EtcdConfig(
            endpoints=tuple(settings.endpoints),
            ca_file=settings.ca_file or None,
            cert_file=settings.cert_file or None,
            key_file=settings.key_file or None,
            username=settings.username or None,
            password=password(settings),
            fresh_password=(lambda: _again(settings)) if settings.password_file else None,
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
        return password(settings)
    except ConfigError as error:
        raise StoreUnavailable(str(error)) from error
