"""Files and patches as people have them, by the command line and a real etcd: taken, stored and shown in one form."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ipam.etcd.client import EtcdStore
from ipam.etcd.etcd_config import EtcdConfig
from ipam.etcd.store import Delete, Put
from ipam.keys import resource_key
from tests.fixtures.etcd import Etcd, start_etcd
from tests.scenes.cli.cli_runs import run

QUOTED = """\
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec:
  asNumber: "64513"
  nodeToNodeMeshEnabled: true
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: rack-router}
spec:
  peerIP: 172.26.0.1
  asNumber: "1.10"     # asdot: 65546
"""
SITE = """\
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: site-a}
spec: {cidr: "FD00:10:0245::/64", vxlanMode: Always, ipipMode: Never}
---
apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {name: default}
spec: {vxlanMTU: 1450}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Etcd]:
    with start_etcd() as running:
        yield running


class Datastore:
    """Texts in etcd, and a command line before it."""

    def __init__(self, server: Etcd, folder: Path) -> None:
        self.endpoint, self.folder = server.endpoint, folder

    def tortie(self, *words: str, text: str = "") -> tuple[int, str, str]:
        return run(["--etcd-endpoints", self.endpoint, *words], text)

    def work(self, put: dict[str, Any] | None = None) -> dict[str, Any]:
        """Puts documents, or takes all away; what is stored then."""

        async def done() -> dict[str, Any]:
            store = EtcdStore(EtcdConfig((self.endpoint,)))
            stored = (await store.list("/calico/")).values
            if put is not None:
                operations = [Put(key, json.dumps(value).encode()) for key, value in put.items()]
                await store.commit((), operations or [Delete(key) for key in stored])
                stored = (await store.list("/calico/")).values
            await store.close()
            return {key: json.loads(value.value) for key, value in stored.items()}

        return asyncio.run(done())


@pytest.fixture
def datastore(server: Etcd, tmp_path: Path) -> Iterator[Datastore]:
    made = Datastore(server, tmp_path)
    yield made
    made.work({})


@pytest.mark.parametrize("verb", ["create", "apply", "replace"])
def test_numbers_in_quotes_are_stored_as_numbers_by_every_verb(datastore: Datastore, verb: str) -> None:
    if verb == "replace":
        datastore.tortie("create", "-f", "-", text=QUOTED.replace("64513", "1").replace("1.10", "2"))
    assert datastore.tortie(verb, "-f", "-", text=QUOTED)[::2] == (0, "")
    stored = datastore.work()
    assert stored[resource_key("bgpconfigurations", "default")]["spec"] == {
        "asNumber": 64513,
        "nodeToNodeMeshEnabled": True,
    }
    assert stored[resource_key("bgppeers", "rack-router")]["spec"] == {
        "peerIP": "172.26.0.1",
        "asNumber": 65546,
    }
    assert "asNumber: 65546\n" in datastore.tortie("get", "bgppeer", "rack-router", "-o", "yaml")[1]
    assert datastore.tortie("apply", "-f", "-", text=QUOTED)[1].count("unchanged") == 2


def test_a_patch_takes_them_as_well(datastore: Datastore) -> None:
    key = resource_key("nodes", "node1")
    node = {"kind": "Node", "metadata": {"name": "node1"}, "spec": {"bgp": {"ipv4Address": "172.26.0.11/20"}}}
    datastore.work({key: node})
    code, out, err = datastore.tortie(
        "patch", "node", "node1", "-p", '{"spec": {"bgp": {"asNumber": "64514"}}}'
    )
    assert (code, out.splitlines()[0], err) == (0, "Node node1 configured", "")
    assert datastore.work()[key]["spec"]["bgp"] == {"ipv4Address": "172.26.0.11/20", "asNumber": 64514}
    assert datastore.tortie("patch", "node", "node1", "-p", "spec: {bgp: {asNumber: 1.10}}")[2] == (
        "tortie: -p: Node node1: spec.bgp.asNumber: expected int | null, got float, which is no AS number; "
        'write 64512, or asdot in quotes: "1.10"\n'
    )
    datastore.tortie("patch", "node", "node1", "-p", "spec: {bgp: {asNumber: null, ipv4Address: ''}}")
    assert "bgp" not in datastore.work()[key]["spec"]


def test_a_stored_value_of_another_form_is_shown_in_ours_and_stays_until_it_is_changed(
    datastore: Datastore,
) -> None:
    key = resource_key("ippools", "v6")
    datastore.work(
        {key: {"kind": "IPPool", "metadata": {"name": "v6"}, "spec": {"cidr": "2001:db8:42:0::/56"}}}
    )
    assert "2001:db8:42::/56" in datastore.tortie("get", "ippools")[1]
    same = datastore.tortie("get", "ippool", "v6", "-o", "yaml")[1]
    assert datastore.tortie("apply", "-f", "-", text=same)[1].splitlines()[0] == "IPPool v6 unchanged"
    assert datastore.work()[key]["spec"]["cidr"] == "2001:db8:42:0::/56"
    assert datastore.tortie("patch", "ippool", "v6", "-p", "spec: {natOutgoing: true}")[0] == 0
    assert datastore.work()[key]["spec"]["cidr"] == "2001:db8:42::/56"


def test_documents_of_other_programs_are_passed_over_by_a_flag_and_named_without_it(
    datastore: Datastore,
) -> None:
    for verb in ("validate", "create", "apply"):
        code, out, err = datastore.tortie(verb, "-f", "-", text=SITE)
        assert (code, out) == (1, "")
        assert err.startswith(
            "tortie: standard input: document 2, line 7: kind: FelixConfiguration is Calico's"
        )
        assert err.endswith("pass over it with --skip-other-kinds\n")
    code, out, err = datastore.tortie("apply", "-f", "-", "--skip-other-kinds", text=SITE)
    assert (code, err) == (
        0,
        "tortie: warning: standard input: document 2, line 7: FelixConfiguration default: passed over\n",
    )
    assert out == "IPPool site-a created\nSuccessfully applied 1 'IPPool' resource(s)\n"
    assert datastore.work()[resource_key("ippools", "site-a")]["spec"] == {
        "cidr": "fd00:10:245::/64",
        "ipipMode": "Never",
        "vxlanMode": "Always",
    }


def test_what_calico_would_refuse_is_refused_in_files_and_against_the_datastore(datastore: Datastore) -> None:
    text = "kind: IPPool\nmetadata: {name: My_Pool}\nspec: {cidr: 10.1.0.0/16}\n"
    for verb in ("validate", "create", "apply"):
        code, out, err = datastore.tortie(verb, "-f", "-", text=text)
        assert (code, out) == (1, "")
        assert err.startswith(
            "tortie: standard input: line 2: IPPool My_Pool: metadata.name: 'My_Pool' must be a DNS name"
        )
    assert datastore.work() == {}


def test_a_pool_over_the_nodes_network_wants_force_and_the_report_says_so(datastore: Datastore) -> None:
    key = resource_key("nodes", "node1")
    datastore.work(
        {
            key: {
                "kind": "Node",
                "metadata": {"name": "node1"},
                "spec": {"bgp": {"ipv4Address": "192.168.1.9/24"}},
            }
        }
    )
    text = "kind: IPPool\nmetadata: {name: p}\nspec: {cidr: 192.168.0.0/16}\n"
    said = (
        "standard input: line 3: IPPool p: spec.cidr: "
        "192.168.0.0/16 overlaps 192.168.1.0/24, the network of node node1"
    )
    assert datastore.tortie("create", "-f", "-", text=text) == (
        1,
        "",
        f"tortie: {said}; choose another range, or insist with --force\n",
    )
    assert datastore.tortie("create", "-f", "-", "--force", "-o", "name", text=text) == (
        0,
        "ippool/p\n",
        f"tortie: warning: {said}\n",
    )


def test_a_pool_is_not_deleted_under_living_pods(datastore: Datastore) -> None:
    pool, pod = resource_key("ippools", "p"), resource_key("workloadendpoints", "n1-k8s-web-eth0", "default")
    spec = {"node": "n1", "orchestrator": "k8s", "pod": "web", "endpoint": "eth0", "interfaceName": "cali1"}
    datastore.work(
        {
            pool: {"kind": "IPPool", "metadata": {"name": "p"}, "spec": {"cidr": "10.1.0.0/16"}},
            pod: {
                "kind": "WorkloadEndpoint",
                "metadata": {"name": "n1-k8s-web-eth0", "namespace": "default"},
                "spec": {**spec, "ipNetworks": ["10.1.0.1/32"]},
            },
        }
    )
    as_file = "kind: IPPool\nmetadata: {name: p}\nspec: {cidr: 10.1.0.0/16}\n"
    for words in (("delete", "ippool", "p"), ("delete", "ippool", "p", "--dry-run"), ("delete", "-f", "-")):
        code, out, err = datastore.tortie(*words, text=as_file)
        assert (code, out) == (1, "")
        assert err == (
            "tortie: IPPool p: pod default/web has addresses of it: delete them first, or insist with --force: "
            "they keep their addresses, and lose the pool's mode\n"
        )
    assert "disabled" not in datastore.work()[pool]["spec"]
    code, out, err = datastore.tortie("delete", "ippool", "p", "--force")
    assert (code, out) == (0, "IPPool p deleted\nSuccessfully deleted 1 'IPPool' resource(s)\n")
    assert err.startswith("tortie: warning: IPPool p: pod default/web has addresses of it: they keep")
    assert pool not in datastore.work()
