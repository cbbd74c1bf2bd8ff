"""`tortie create, apply, replace, patch, label, delete, get, validate` as a person runs them, against a real etcd."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipam.etcd.client import EtcdStore
from ipam.etcd.etcd_config import EtcdConfig
from ipam.etcd.store import Delete, Put
from ipam.keys import affinity_key, resource_key
from ipam.model import NodeName, Prefix
from tests.fixtures.etcd import Etcd, start_etcd
from tests.scenes.cli.cli_runs import run
from tests.scenes.datastore.resources import EXAMPLES

POOL, CONFIGURATION, PEER, FILTER, NODE, RESERVATION, RULES, TIMERS = EXAMPLES


@pytest.fixture(scope="module")
def server() -> Iterator[Etcd]:
    with start_etcd() as running:
        yield running


class Tortie:
    """A command line, and the datastore behind it."""

    def __init__(self, server: Etcd, folder: Path) -> None:
        self.endpoint = server.endpoint
        self.folder = folder

    def __call__(self, *words: str, text: str = "") -> tuple[int, str, str]:
        """Exit code, what it said, what it complained of."""
        return run(["--etcd-endpoints", self.endpoint, *words], text)

    def put(self, **values: str) -> None:
        """Values by key, with `__` for `/`; all of /calico/ when there are none."""

        async def work() -> None:
            store = EtcdStore(EtcdConfig((self.endpoint,)))
            gone = [] if values else [Delete(key) for key in (await store.list("/calico/")).values]
            await store.commit((), gone or [Put(key, value.encode()) for key, value in values.items()])
            await store.close()

        asyncio.run(work())

    def file(self, name: str, *texts: str) -> str:
        """A file of documents, and its path."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n---\n".join(texts))
        return str(path)


@pytest.fixture
def tortie(server: Etcd, tmp_path: Path) -> Iterator[Tortie]:
    made = Tortie(server, tmp_path)
    yield made
    made.put()


def test_words_and_last_lines_are_those_of_calicoctl(tortie: Tortie) -> None:
    both = tortie.file("both.yaml", POOL.text(), PEER.text())
    pool = tortie.file("pool.json", POOL.text())
    changed = tortie.file("changed.json", POOL.text(POOL.other))
    for words, expected in (
        (("validate", "-f", both), "Successfully validated 2 resource(s)\n"),
        (
            ("create", "-f", both),
            "IPPool pool created\nBGPPeer tor created\nSuccessfully created 2 resource(s)\n",
        ),
        (
            ("create", "-f", both, "--skip-exists"),
            "IPPool pool skipped\nBGPPeer tor skipped\nSuccessfully created 2 resource(s)\n",
        ),
        (("apply", "-f", pool), "IPPool pool unchanged\nSuccessfully applied 1 'IPPool' resource(s)\n"),
        (
            ("apply", "-f", changed, "-f", pool, "--dry-run"),
            "IPPool pool configured (dry run)\n  spec.natOutgoing: (none) -> true\n"
            "IPPool pool configured (dry run)\n  spec.natOutgoing: true -> (none)\ndry run: nothing was written\n",
        ),
        (
            ("replace", "-f", changed),
            "IPPool pool configured\nSuccessfully replaced 1 'IPPool' resource(s)\n",
        ),
        (("apply", "-f", changed, "-o", "name"), "ippool/pool\n"),
        (
            ("patch", "bgppeer", "tor", "-p", "spec: {password: null}", "--dry-run"),
            f"BGPPeer tor configured (dry run)\n  {PEER.change}\ndry run: nothing was written\n",
        ),
        (
            ("patch", "bgppeer", "tor", "-p", '{"spec": {"asNumber": 65002}}'),
            "BGPPeer tor configured\nSuccessfully patched 1 'BGPPeer' resource\n",
        ),
        (
            ("label", "bgppeer", "tor", "rack=r2", "zone=a", "--overwrite"),
            "BGPPeer tor configured\nSuccessfully updated label rack on bgppeer tor\n"
            "Successfully set label zone on bgppeer tor\n",
        ),
        (
            ("label", "bgppeer", "tor", "rack-"),
            "BGPPeer tor configured\nSuccessfully removed label rack from bgppeer tor\n",
        ),
        (
            ("delete", "-f", pool, "--dry-run"),
            "IPPool pool deleted (dry run)\ndry run: nothing was written\n",
        ),
        (
            ("delete", "bgppeer", "tor"),
            "BGPPeer tor deleted\nSuccessfully deleted 1 'BGPPeer' resource(s)\n",
        ),
        (
            ("delete", "bgppeer", "tor", "--skip-not-exists"),
            "BGPPeer tor skipped\nSuccessfully deleted 1 'BGPPeer' resource(s)\n",
        ),
        (("get", "ippools", "-o", "name"), "ippool/pool\n"),
    ):
        assert tortie(*words) == (0, expected, ""), words


TABLES = {
    ("ippools",): 'NAME   CIDR          SELECTOR\npool   10.0.0.0/16   rack == "r1"\n',
    ("ipp", "-o", "wide"): (
        "NAME   CIDR          NAT     IPIPMODE   VXLANMODE     DISABLED   DISABLEBGPEXPORT   SELECTOR       "
        "ASSIGNMENTMODE\n"
        'pool   10.0.0.0/16   false   Never      CrossSubnet   false      false              rack == "r1"   '
        "Automatic\n"
    ),
    (
        "bgpconfig",
    ): "NAME      LOGSEVERITY   MESHENABLED   ASNUMBER\ndefault   Info          true          65000\n",
    ("bp",): "NAME   PEERIP           NODE       ASN\ntor    [fd00::9]:1790   (global)   65001\n",
    ("bgpfilter",): (
        "NAME   NUMEXPORTV4   NUMIMPORTV4   NUMEXPORTV6   NUMIMPORTV6\n"
        "f      1             0             0             0\n"
    ),
    ("bfdconfig",): 'NAME   SELECTOR       INTERFACES\nrack   rack == "r1"   eth*\n',
    ("nodes", "-o", "wide"): "NAME   ASN     IPV4            IPV6\nn1     64513   172.16.0.1/24\n",
    ("reservations", "-o", "wide"): "NAME   CIDRS\nkept   10.0.0.1/32,10.0.1.0/24,fd00::/126\n",
    ("ipamconfig", "-o", "wide"): (
        "NAME      STRICTAFFINITY   AUTOALLOCATEBLOCKS   MAXBLOCKSPERHOST\n"
        "default   true             true                 4\n"
    ),
    ("affinities",): (
        "NAME                CIDR            NODE   STATE\n"
        "n1-10-0-0-64-27     10.0.0.64/27    n1     confirmed\n"
    ),
    ("wep",): "WORKLOAD   NODE   NETWORKS       INTERFACE\nweb        n1     10.0.0.65/32   cali1\n",
    ("wep", "-o", "wide"): (
        "NAME                WORKLOAD   NODE   NETWORKS       INTERFACE   PROFILES\n"
        "n1-cni-web-eth0     web        n1     10.0.0.65/32   cali1       p\n"
    ),
    ("wep", "-a"): (
        "NAMESPACE   WORKLOAD   NODE   NETWORKS       INTERFACE\n"
        "default     web        n1     10.0.0.65/32   cali1\n"
    ),
    ("wep", "-n", "kube-system"): "WORKLOAD   NODE   NETWORKS   INTERFACE\n",
}
ENDPOINT = {
    "node": "n1",
    "orchestrator": "cni",
    "workload": "web",
    "endpoint": "eth0",
    "interfaceName": "cali1",
    "ipNetworks": ["10.0.0.65/32"],
    "profiles": ["p"],
}


def test_tables_are_those_of_calicoctl(tortie: Tortie) -> None:
    tortie("apply", "-f", tortie.file("all.yaml", *(example.text() for example in EXAMPLES)))
    endpoint = {"kind": "WorkloadEndpoint", "metadata": {"name": "n1-cni-web-eth0", "namespace": "default"}}
    claim = affinity_key(NodeName("n1"), _network("10.0.0.64/27"))
    tortie.put(
        **{
            resource_key("workloadendpoints", "n1-cni-web-eth0", "default"): json.dumps(
                endpoint | {"spec": ENDPOINT}
            ),
            claim: '{"state":"confirmed","deleted":false}',
        }
    )
    for words, table in TABLES.items():
        code, out, err = tortie("get", *words)
        assert (code, out.split(), err) == (0, table.split(), ""), words
        assert [line.rstrip() for line in out.splitlines()] == out.splitlines()


def _network(text: str) -> Prefix:
    from ipaddress import ip_network

    return ip_network(text)


def test_directories_are_read_by_name_and_all_kinds_come_back_as_they_were(tortie: Tortie) -> None:
    for number, example in enumerate(EXAMPLES):
        tortie.file(f"all/{number}.{'yaml' if number % 2 else 'json'}", example.text())
    tortie.file("all/readme.txt", "no resource")
    folder = str(tortie.folder / "all")
    code, out, err = tortie("apply", "-f", folder)
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()[:-1]] == [example.kind for example in EXAMPLES]
    for form in ("yaml", "json"):
        texts = [tortie("get", example.kind, "-o", form)[1] for example in EXAMPLES]
        joined = "\n---\n".join(texts)
        code, out, err = tortie("apply", "-f", "-", text=joined)
        assert (code, err) == (0, "")
        assert [line.split()[-1] for line in out.splitlines()[:-1]] == ["unchanged"] * len(EXAMPLES)
    assert tortie("apply", "-f", str(tortie.folder / "nothing"))[0] == 1
    (tortie.folder / "empty").mkdir()
    assert tortie("validate", "-f", str(tortie.folder / "empty"))[2].endswith(
        "holds no *.yaml, *.yml, *.json\n"
    )


def test_what_a_dry_run_shows_can_be_applied(tortie: Tortie) -> None:
    tortie("create", "-f", tortie.file("pool.json", POOL.text()))
    changed = tortie.file("changed.json", POOL.text(POOL.other), PEER.text())
    code, shown, err = tortie("apply", "-f", changed, "--dry-run", "-o", "yaml")
    assert (code, err) == (0, "")
    assert "natOutgoing: true" in shown
    assert "resourceVersion" not in shown
    code, out, err = tortie("apply", "-f", "-", text=shown)
    assert (code, out.splitlines()[:2], err) == (0, ["IPPool pool configured", "BGPPeer tor created"], "")
    assert tortie("apply", "-f", changed, "-o", "json")[1].count('"resourceVersion"') == 2


def test_nothing_at_all_is_an_error_unless_it_may_be(tortie: Tortie) -> None:
    empty = tortie.file("none/empty.yaml", "# later\n---\n")
    (tortie.folder / "nothing").mkdir()
    for words in (("-f", empty), ("-f", str(tortie.folder / "none")), ("-f", str(tortie.folder / "nothing"))):
        assert tortie("apply", *words)[0] == 1
        assert tortie("apply", *words, "--skip-empty") == (0, "No resources specified\n", "")
    assert tortie("apply", "-f", empty)[2] == f"tortie: {empty}: holds no document\n"


def test_nothing_is_written_when_the_last_document_would_be_refused(tortie: Tortie) -> None:
    tortie("create", "-f", tortie.file("pool.json", POOL.text()))
    second = POOL.document({"cidr": "10.0.4.0/24"})
    second["metadata"]["name"] = "second"
    third = POOL.document({"cidr": "10.9.0.0/16"})
    both = tortie.file("both.yaml", PEER.text(), json.dumps(second, indent=1), json.dumps(third))
    code, out, err = tortie("apply", "-f", both)
    assert (code, out) == (1, "")
    assert err == (
        f"tortie: {both}: document 2, line 16: IPPool second: spec.cidr: 10.0.4.0/24 overlaps pool pool (10.0.0.0/16)\n"
        f"tortie: {both}: document 3, line 23: IPPool pool: spec.cidr: 10.0.0.0/16 cannot be changed to 10.9.0.0/16; "
        "make a new pool and delete this one\n"
    )
    assert tortie("get", "bgppeers", "-o", "name") == (0, "\n", "")
    code, out, err = tortie("validate", "-f", tortie.file("pool.json", POOL.text()), "-f", both)
    assert (code, out) == (1, "")
    assert err == (
        f"tortie: {both}: document 2, line 16: IPPool second: spec.cidr: 10.0.4.0/24 overlaps pool pool (10.0.0.0/16)\n"
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("label", "bgppeer", "tor", "rack"),
            "tortie: label 'rack': write KEY=VALUE to set a label and KEY- to remove",
        ),
        (
            ("label", "bgppeer", "tor", "rack=r2"),
            "tortie: failed to update label of bgppeer tor, key rack is already present (r1); use --overwrite",
        ),
        (
            ("label", "bgppeer", "tor", "zone-"),
            "tortie: cannot remove label of bgppeer tor, key zone does not exist",
        ),
        (
            ("label", "bgppeer", "tor", "zone=a b"),
            "tortie: label: BGPPeer tor: metadata.labels.zone: 'a b' must be",
        ),
        (("label", "bgppeer", "gone", "a=b"), "tortie: BGPPeer gone does not exist"),
        (("label", "wep", "x", "a=b"), "tortie: label: WorkloadEndpoint x: cannot be written: pods are made"),
        (("patch", "bgppeer", "tor", "-p", "[1"), "tortie: -p: line 2, column 1: not YAML or JSON"),
        (("patch", "bgppeer", "tor", "-p", "[1]"), "tortie: -p: expected one object, such as"),
        (
            ("patch", "bgppeer", "tor", "-p", "spec: {asnumber: 1}"),
            "tortie: -p: BGPPeer tor: spec.asnumber: unknown field; did you mean asNumber?",
        ),
        (
            ("patch", "bgppeer", "tor", "-p", "metadata: {resourceVersion: '1'}\nspec: {asNumber: 1}"),
            "tortie: -p: BGPPeer tor: metadata.resourceVersion: has changed since it was read (1, now ",
        ),
        (
            ("patch", "affinity", "x", "-p", "{}"),
            "tortie: -p: BlockAffinity x: cannot be written: claims are made",
        ),
        (("delete", "wep", "x"), "tortie: WorkloadEndpoint x cannot be deleted: pods are made"),
        (("delete", "bgppeer"), "tortie: name either -f FILE or KIND and NAME, such as"),
        (("get", "bgppeer", "gone"), "tortie: BGPPeer gone does not exist"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_exit_code_1(
    tortie: Tortie, words: tuple[str, ...], sentence: str
) -> None:
    tortie("create", "-f", tortie.file("peer.json", PEER.text()))
    before = tortie("get", "bgppeers", "-o", "yaml")
    code, out, err = tortie(*words)
    assert (code, out) == (1, "")
    assert err.startswith(sentence)
    assert tortie("get", "bgppeers", "-o", "yaml") == before


def test_a_damaged_value_is_told_beside_the_others(tortie: Tortie) -> None:
    tortie("create", "-f", tortie.file("peer.json", PEER.text()))
    key = resource_key("bgppeers", "bad")
    tortie.put(**{key: "[]"})
    code, out, err = tortie("get", "bgppeers", "-o", "name")
    assert (code, out) == (1, "bgppeer/tor\n")
    assert err == f"tortie: BGPPeer cannot be read: {key}: expected a JSON object, got a list\n"
    assert tortie("delete", "bgppeer", "bad")[0] == 0
    assert tortie("get", "bgppeers", "-o", "name") == (0, "bgppeer/tor\n", "")


def test_what_is_stored_cannot_write_to_the_terminal_that_shows_it(tortie: Tortie) -> None:
    odd = resource_key("ippools", "odd")
    spec = '{"cidr":"10.0.0.0/16","nodeSelector":"\\u001b[2J\\u202e\\nall()"}'
    tortie.put(**{odd: f'{{"kind":"IPPool","metadata":{{"name":"odd"}},"spec":{spec}}}'})
    code, out, err = tortie("get", "ippools")
    assert (code, err) == (0, "")
    assert "\\x1b[2J\\u202e\\nall()" in out
    assert all(line.isprintable() for line in out.splitlines())
    assert tortie("delete", "ippool", "odd")[0] == 0
