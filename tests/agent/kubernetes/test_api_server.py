"""How the API server is reached: kubeconfigs and service accounts, over TLS, and what of them is refused."""

from __future__ import annotations

import base64
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.kubernetes.api import KubernetesApi, node_path
from agent.kubernetes.api_errors import ApiAway
from agent.kubernetes.api_server import ApiServer, from_kubeconfig, in_cluster
from tests import ROOT
from tests.fakes.api_server import FakeApiServer
from tests.fakes.clock import SetClock
from tests.fixtures.certificates import Authority


def written(path: Path, cluster: dict[str, Any], user: dict[str, Any] | None = None) -> Path:
    document = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": cluster}],
        "users": [{"name": "u", "user": user or {}}],
    }
    file = path / "kubeconfig"
    file.write_text(yaml.safe_dump(document))
    return file


def test_files_lie_beside_the_kubeconfig_and_data_goes_before_files(tmp_path: Path) -> None:
    cluster = {"server": "https://api.example:6443/k8s/", "certificate-authority": "ca.pem"}
    data = base64.b64encode(b"PEM").decode()
    user = {"client-certificate": "/x.pem", "client-certificate-data": data, "client-key": "x.key"}
    assert from_kubeconfig(written(tmp_path, cluster, user)) == ApiServer(
        "api.example",
        6443,
        "/k8s",
        True,
        "",
        tmp_path / "ca.pem",
        b"PEM",
        tmp_path / "x.key",
        b"",
    )


@pytest.mark.parametrize(
    ("cluster", "user", "why"),
    [
        ({"server": "https://a", "insecure-skip-tls-verify": True}, {}, "insecure-skip-tls-verify"),
        ({"server": "http://10.0.0.1:8080"}, {}, "must be https"),
        ({"server": "ftp://a"}, {}, "must be https"),
        ({}, {}, "must be https"),
        ({"server": "https://a:99999"}, {}, "no kubeconfig"),
        ({"server": "https://a", "proxy-url": "http://p"}, {}, "proxy-url"),
        ({"server": "https://a"}, {"exec": {"command": "x"}}, "exec is not done"),
        ({"server": "https://a"}, {"username": "u", "password": "secret"}, "username is not done"),
        ({"server": "https://a"}, {"client-certificate": "c"}, "goes with client-key"),
        ({"server": "https://a"}, {"client-certificate-data": "%%", "client-key": "k"}, "no base64"),
    ],
)
def test_what_cannot_be_honoured_is_refused_in_a_sentence(
    tmp_path: Path, cluster: dict[str, Any], user: dict[str, Any], why: str
) -> None:
    with pytest.raises(ApiAway, match=why) as refused:
        from_kubeconfig(written(tmp_path, cluster, user))
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "text", ["", "[]", "7", "a: [", "clusters: 7", "users: {}", "\0", "current-context: x", "&a [*a]"]
)
def test_whatever_is_in_the_file_is_a_sentence(tmp_path: Path, text: str) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(text)
    with pytest.raises(ApiAway, match="kubeconfig"):
        from_kubeconfig(file)
    with pytest.raises(ApiAway):
        from_kubeconfig(tmp_path)
    with pytest.raises(ApiAway):
        from_kubeconfig(tmp_path / "none")


def test_a_service_account_is_that_of_the_pod(tmp_path: Path) -> None:
    found = in_cluster({"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}, tmp_path)
    assert found == ApiServer("10.96.0.1", 443, ca=tmp_path / "ca.crt", token=tmp_path / "token")
    with pytest.raises(ApiAway, match="outside of a pod"):
        in_cluster({}, tmp_path)


async def test_over_tls_both_sides_show_who_they_are_and_an_unknown_one_is_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.issue("server")
    authority.issue("node")
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(authority.file("server.pem"), authority.file("server.key"))
    served.load_verify_locations(authority.file("ca.pem"))
    served.verify_mode = ssl.CERT_REQUIRED
    made = FakeApiServer()
    made.node("n1")
    data = {
        name: base64.b64encode((tmp_path / name).read_bytes()).decode() for name in ("node.pem", "node.key")
    }
    async with made.serving(served):
        url = f"https://127.0.0.1:{made.port}"
        users = (
            {"client-certificate": "node.pem", "client-key": "node.key"},
            {"client-certificate-data": data["node.pem"], "client-key-data": data["node.key"]},
        )
        for user in users:
            cluster = {"server": url, "certificate-authority": "ca.pem"}
            file = written(tmp_path, cluster, user)
            api = KubernetesApi(lambda file=file: from_kubeconfig(file), SetClock())  # type: ignore[misc]
            assert await api.get(node_path("n1"), "node") is not None
        other = tmp_path / "other"
        other.mkdir()
        Authority(other)
        strange = written(tmp_path, {"server": url, "certificate-authority": str(other / "ca.pem")}, users[0])
        api = KubernetesApi(lambda: from_kubeconfig(strange), SetClock())
        with pytest.raises(ApiAway, match="CERTIFICATE_VERIFY_FAILED"):
            await api.get(node_path("n1"), "node")


def test_an_agent_without_these_settings_loads_nothing_of_this_room() -> None:
    look = "import sys, agent.node_agent; print([name for name in sys.modules if 'agent.kubernetes' in name])"
    done = subprocess.run([sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
