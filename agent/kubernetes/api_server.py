"""Where the API server is and how this agent shows who it is: a kubeconfig, or the service account of a pod.

Promises: files are read anew for each connection, so a rotated token or certificate is used with the next one; what
cannot be honoured (exec plugins, an unverified server) is a sentence, never passed over. No message has a secret.
Does not know: HTTP, what is asked.
Reference: kubernetes.io, "Organizing Cluster Access Using kubeconfig Files"; "Accessing the API from a Pod".
"""

from __future__ import annotations

import base64
import binascii
import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from agent.foreign_files import read_file
from agent.kubernetes.api_errors import ApiAway

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
MOST_FILE_BYTES = 1 << 20
MOST_TOKEN_BYTES = 64 << 10
MOST_ENTRIES = 1000
"""Of clusters, users or contexts in a kubeconfig."""
REFUSED_USER = ("exec", "auth-provider", "username", "impersonate", "as")


@dataclass(frozen=True, slots=True)
class ApiServer:
    """An API server, and the files or texts that show who asks."""

    host: str
    port: int
    path: str = ""
    """Before every path; empty, or it begins with a slash and does not end with one."""
    tls: bool = True
    server_name: str = ""
    ca: Path | bytes = b""
    certificate: Path | bytes = b""
    key: Path | bytes = b""
    token: Path | bytes = b""

    def bearer_token(self) -> str:
        """The token as it is now; empty without one. Raises ApiAway."""
        if isinstance(self.token, bytes):
            found = self.token
        else:
            try:
                found = read_file(self.token, MOST_TOKEN_BYTES)
            except OSError as error:
                raise ApiAway(f"the token cannot be read: {error}") from error
        text = found.decode("ascii", errors="replace").strip()
        if not text.isprintable() or not text.isascii():
            raise ApiAway("the token is no line of ASCII")
        return text

    def context(self) -> ssl.SSLContext | None:
        """For a connection, made of the files as they are now; None for plain HTTP. Raises ApiAway."""
        if not self.tls:
            return None
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            if self.ca:
                content = self.ca if isinstance(self.ca, bytes) else read_file(self.ca, MOST_FILE_BYTES)
                made.load_verify_locations(cadata=content.decode("ascii"))
            else:
                made.load_default_certs()
            if self.certificate:
                with ExitStack() as stack:
                    names = [
                        str(part) if isinstance(part, Path) else stack.enter_context(_as_file(part))
                        for part in (self.certificate, self.key)
                    ]
                    made.load_cert_chain(names[0], names[1], password=lambda: "")
        except (OSError, ValueError) as error:  # of ssl, of the files, of their octets
            raise ApiAway(f"a certificate or key for the API server cannot be used: {error}") from error
        return made


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """A name for octets in memory: the library takes files alone, and no disk is to hold the key."""
    descriptor = os.memfd_create("certificate")
    try:
        os.write(descriptor, content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def in_cluster(environment: Mapping[str, str], directory: Path = SERVICE_ACCOUNT) -> ApiServer:
    """By the service account that Kubernetes mounts into a pod. Raises ApiAway outside of one."""
    host, port = (
        environment.get("KUBERNETES_SERVICE_HOST", ""),
        environment.get("KUBERNETES_SERVICE_PORT", ""),
    )
    if not host or not port.isdecimal():
        raise ApiAway(
            "KUBERNETES_SERVICE_HOST and _PORT are not set: outside of a pod set kubernetes.kubeconfig"
        )
    return ApiServer(host, int(port), ca=directory / "ca.crt", token=directory / "token")


def from_kubeconfig(path: Path) -> ApiServer:
    """By a kubeconfig's current context. Raises ApiAway with a sentence."""
    try:
        raw = yaml.safe_load(read_file(path, MOST_FILE_BYTES))
        return _server(raw, path.parent)
    except ApiAway as error:
        raise ApiAway(f"{path}: {error}") from error
    except OSError as error:
        raise ApiAway(str(error)) from error
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, AttributeError) as error:
        # The parser quotes what it stumbles over, and that may be a token.
        raise ApiAway(f"{path}: is no kubeconfig ({type(error).__name__})") from None


def _server(raw: Any, directory: Path) -> ApiServer:
    context = _named(raw, "contexts", "context", raw.get("current-context"))
    cluster = _named(raw, "clusters", "cluster", context.get("cluster"))
    user = _named(raw, "users", "user", context.get("user")) if context.get("user") else {}
    if cluster.get("insecure-skip-tls-verify"):
        raise ApiAway("insecure-skip-tls-verify is not done: name the certificate-authority")
    if cluster.get("proxy-url"):
        raise ApiAway("proxy-url is not done: name the API server itself")
    for word in REFUSED_USER:
        if user.get(word):
            raise ApiAway(f"users: {word} is not done: take a token, a tokenFile or a client certificate")
    url = urlsplit(str(cluster.get("server", "")))
    if url.scheme not in ("http", "https") or not url.hostname or url.username is not None:
        raise ApiAway("clusters: server must be https://HOST:PORT")
    tls = url.scheme == "https"
    if not tls and not _is_loopback(url.hostname):
        raise ApiAway("clusters: server must be https; http is for this machine's own addresses alone")
    certificate = _part(user, "client-certificate", directory)
    key = _part(user, "client-key", directory)
    if bool(certificate) != bool(key):
        raise ApiAway("users: client-certificate goes with client-key")
    token: Path | bytes = str(user.get("token") or "").encode()
    if user.get("tokenFile"):
        token = directory / str(user["tokenFile"])
    return ApiServer(
        url.hostname,
        url.port or (443 if tls else 80),
        url.path.rstrip("/"),
        tls,
        str(cluster.get("tls-server-name") or ""),
        _part(cluster, "certificate-authority", directory),
        certificate,
        key,
        token,
    )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _named(raw: Any, plural: str, single: str, name: Any) -> dict[str, Any]:
    found = raw.get(plural)
    if not isinstance(found, list) or len(found) > MOST_ENTRIES:
        raise ApiAway(f"{plural}: must be a list")
    for entry in found:
        if isinstance(entry, dict) and entry.get("name") == name and isinstance(entry.get(single), dict):
            return dict(entry[single])
    raise ApiAway(f"{plural}: there is none of the name that is current")


def _part(raw: Mapping[str, Any], name: str, directory: Path) -> Path | bytes:
    """A file beside the kubeconfig, or what stands in it as base64; the latter goes first, as in client-go."""
    if data := raw.get(f"{name}-data"):
        try:
            return base64.b64decode(str(data), validate=True)
        except (binascii.Error, ValueError):
            raise ApiAway(f"{name}-data: is no base64") from None
    return directory / str(raw[name]) if raw.get(name) else b""
