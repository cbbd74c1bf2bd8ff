"""From settings to a connected datastore: the one place where etcd settings become the store's own."""

from __future__ import annotations

from agent.config import ConfigError, EtcdSettings, password
from ipam.etcd import EtcdConfig


def etcd_config(settings: EtcdSettings) -> EtcdConfig:
    """The datastore's settings as the store takes them. Raises ConfigError, naming what is wrong."""
    try:
        return EtcdConfig(
            endpoints=tuple(settings.endpoints),
            ca_file=settings.ca_file or None,
            cert_file=settings.cert_file or None,
            key_file=settings.key_file or None,
            username=settings.username or None,
            password=password(settings),
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
