"""Where etcd is and how to speak to it, checked when made.

Promises: a wrong endpoint or half a certificate is one sentence. Does not know: gRPC.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

ADDRESS = re.compile(r"[0-9.]+")


@dataclass(frozen=True, slots=True)
class EtcdConfig:
    """Endpoints, TLS files, credentials. Raises ValueError."""

    endpoints: tuple[str, ...]
    """`http://host:port`, `https://host:port`, or `host:port` (TLS if a CA file is given)."""
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    username: str | None = None
    password: str | None = None
    fresh_password: Callable[[], str | None] | None = None
    """Reads the password again at each login, so that it may be changed while we run."""
    read_file: Callable[[str], bytes] = lambda path: Path(path).read_bytes()
    """Reads a TLS file. Raises OSError."""
    call_seconds: float = 5.0
    """Deadline of every single call."""
    patience_seconds: float = 15.0
    """How long a watch tries to come back before it gives up."""

    def __post_init__(self) -> None:
        if not self.endpoints:
            raise ValueError("etcd endpoints: name at least one, such as http://127.0.0.1:2379")
        schemes = {self._split(endpoint)[0] for endpoint in self.endpoints}
        if len(schemes) > 1:
            raise ValueError("etcd endpoints: http and https cannot be mixed")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("etcd client certificate: cert_file and key_file go together")
        if (self.username is None) != (self.password is None):
            raise ValueError("etcd credentials: username and password go together")

    def __repr__(self) -> str:
        return f"EtcdConfig({', '.join(self.endpoints)})"  # never the password

    def _split(self, endpoint: str) -> tuple[str, str, int]:
        if "@" in endpoint:  # not repeated: what stands before it is a secret
            raise ValueError(
                "etcd endpoints: no user or password in an endpoint; set etcd.username and etcd.password_file"
            )
        default = "https" if self.ca_file or self.cert_file else "http"
        parts = urlsplit(endpoint if "//" in endpoint else f"{default}://{endpoint}")
        wrong = f"etcd endpoint {endpoint!r}"
        if parts.scheme not in ("http", "https"):
            raise ValueError(f"{wrong}: begins with http:// or https://, not {parts.scheme}://")
        try:
            port = parts.port or 2379
        except ValueError:
            raise ValueError(f"{wrong}: the port must be a number from 1 to 65535") from None
        if not parts.hostname or parts.path not in ("", "/"):
            raise ValueError(f"{wrong}: must be a host and a port, such as http://127.0.0.1:2379")
        return parts.scheme, parts.hostname, port

    @property
    def secure(self) -> bool:
        """Whether the endpoints are spoken to over TLS."""
        return self._split(self.endpoints[0])[0] == "https"

    @property
    def targets(self) -> tuple[tuple[str, str], ...]:
        """Each endpoint's gRPC target and the name that its certificate must bear."""
        return tuple(_target(*self._split(endpoint)[1:]) for endpoint in self.endpoints)

    def secret(self) -> str | None:
        """The password as it is now. Raises ValueError, or what `fresh_password` raises."""
        return self.fresh_password() if self.fresh_password is not None else self.password

    def read(self, path: str | None) -> bytes | None:
        """The contents of a TLS file; None without a path. Raises ValueError that names the path."""
        if path is None:
            return None
        try:
            return self.read_file(path)
        except OSError as error:
            raise ValueError(f"etcd TLS file {path}: {error.strerror}") from error


def _target(host: str, port: int) -> tuple[str, str]:
    if ADDRESS.fullmatch(host):
        return f"ipv4:{host}:{port}", host
    if ":" in host:
        return f"ipv6:[{host}]:{port}", host
    return f"dns:///{host}:{port}", host
