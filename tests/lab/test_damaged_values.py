"""Whatever is written into etcd: no agent ends, no route changes, each value is named, and mended it is forgotten."""

from __future__ import annotations

import json
import os
import random
import re
import signal
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path

import pytest

from agent.datastore.unreadable_values import MOST_NAMED
from agent.lab import lab_processes
from agent.lab.lab_plan import LabNode, Mode
from agent.lab.lifecycle import Lab
from agent.lab.pods import add_pod
from ipam.keys import BLOCKS, HANDLES, IPAM, IPAM_CONFIG, RESOURCES, affinity_of_key, is_fence, resource_key
from tests.fixtures import program
from tests.scenes.datastore.damages import Damage, Good, byte_damages, document, field_damages, odd_keys
from tests.scenes.lab.lab_nodes import lost_pings, tortie_on
from tests.scenes.lab.labs import COMMAND, MakeLab, RouteMonitors
from tests.scenes.lab.raw_store import RawStore, raw_store

pytestmark = pytest.mark.lab

SEED = 16
ROUNDS = 8
BYTES_A_ROUND, FIELDS_A_ROUND = 4, 1
"""Damages of each kind of which there may be any number of values."""
LEAST_PAIRS = 400
ENDPOINTS, NODES, PROFILES = (f"{RESOURCES}{kind}/" for kind in ("workloadendpoints", "nodes", "profiles"))
NAMED = re.compile(r"(.+?): revision (\d+) cannot be read: ")
LARGE = 100_000
"""Bytes: as large a value is written once of a kind, not in every round."""


@pytest.fixture(scope="module")
def lab(make_lab: MakeLab) -> Lab:
    """Routes over VXLAN: they follow from pools, nodes and claims."""
    return make_lab("damage", Mode.VXLAN, nodes=2, pods=6)


@pytest.fixture(scope="module")
def store(lab: Lab) -> Iterator[RawStore]:
    """The lab's datastore."""
    with raw_store(lab.plan) as made:
        yield made


def named(node: LabNode) -> dict[str, int]:
    """Key -> revision of each unreadable value that the node's status names."""
    status = lab_processes.agent_status(node)
    assert status is not None
    found = (NAMED.match(text) for text in status["troubles"])
    return {match[1]: int(match[2]) for match in found if match is not None}


def shown(key: str) -> str:
    return key.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def any_number(kind: str, number: int) -> Good:
    """A value that changes nothing, of a kind of which there may be any number."""
    name = f"odd{number}"
    cidr = f"10.{200 + number // 200}.{number % 200}.0"
    match kind:
        case "IPPool":
            spec: object = {"cidr": f"{cidr}/24", "blockSize": 26, "nodeSelector": 'no == "node"'}
        case "BGPPeer":
            spec = {"node": "nobody", "peerIP": "192.0.2.1", "asNumber": 64512}
        case "BGPFilter":
            spec = {"exportV4": [{"action": "Reject", "cidr": "192.0.2.0/24", "matchOperator": "In"}]}
        case "BGPConfiguration":
            name, spec = f"node.{name}", {"listenPort": 1790}
        case "IPReservation":
            spec = {"reservedCIDRs": [f"{cidr}/30"]}
        case "BlockAffinity":
            key = f"{IPAM}host/{name}/ipv4/block/{cidr}-26"
            return Good(kind, key, b'{"state":"confirmed","deleted":false}')
        case _:
            spec = {"addresses": [{"address": "192.0.2.9"}]}
    return Good(kind, resource_key(f"{kind.lower()}s", name), document(kind, name, spec))


MANY = ("IPPool", "Node", "BGPConfiguration", "BGPPeer", "BGPFilter", "IPReservation", "BlockAffinity")


@dataclass
class Campaign:
    """What is damaged, round by round."""

    store: RawStore
    lab: Lab
    chance: random.Random
    good: dict[str, bytes] = field(default_factory=dict)
    """Everything that must be written to mend all."""
    tried: set[tuple[str, str]] = field(default_factory=set)
    own_records: dict[str, int] = field(default_factory=dict)
    """Key of a node's own record -> the revision of its damage, of this round."""

    def existing(self) -> list[tuple[Good, tuple[LabNode, ...]]]:
        """The lab's own values, and the nodes that must name each."""
        found = []
        stored = {**self.store.below(RESOURCES), **self.store.below(IPAM)}
        stored.setdefault(IPAM_CONFIG, b'{"strict_affinity":false,"auto_allocate_blocks":true}')
        claims = {key: claim for key in stored if (claim := affinity_of_key(key)) is not None}
        owner = {claim[1]: claim[0] for claim in claims.values()}
        for key, value in stored.items():
            if is_fence(key) or key.startswith(PROFILES):
                continue  # of the one the revision counts, of the other that it is there: nobody reads what is in it
            nodes = self.lab.plan.nodes
            if key.startswith(ENDPOINTS):
                kind, nodes = "WorkloadEndpoint", self._by_name(json.loads(value)["spec"]["node"])
            elif key.startswith(HANDLES):
                (block,) = json.loads(value)["block"]
                kind, nodes = "Handle", self._by_name(owner[ip_network(block)])
            elif key.startswith(BLOCKS):
                kind, nodes = "Block", self._by_name(owner[ip_network(json.loads(value)["cidr"])])
            elif key in claims:
                kind = "BlockAffinity"
            elif key == IPAM_CONFIG:
                kind = "IPAMConfig"
            elif key.startswith(NODES):
                kind, nodes = "own Node", self._by_name(key.rpartition("/")[2])
            else:
                kind = "IPPool"
            found.append((Good(kind, key, value), tuple(nodes)))
        return found

    def _by_name(self, name: str) -> list[LabNode]:
        return [node for node in self.lab.plan.nodes if node.name == name]

    def chosen(self, good: Good) -> Damage:
        """A certain damage of a value, if there still is one one that was not tried of its kind yet."""
        certain = [damage for damage in (*byte_damages(good), *field_damages(good)) if damage.is_certain]
        is_first = not any(kind == good.kind for kind, _ in self.tried)
        small = [damage for damage in certain if is_first or len(damage.value) < LARGE]
        new = [damage for damage in small if (good.kind, damage.name) not in self.tried]
        damage = self.chance.choice(new or small)
        self.tried.add((good.kind, damage.name))
        return damage

    def round(
        self, number: int, existing: list[tuple[Good, tuple[LabNode, ...]]]
    ) -> dict[str, dict[str, int]]:
        """Damage some of everything; node -> key -> revision of what it must name."""
        writes: dict[str, bytes | None] = {}
        by: dict[str, tuple[LabNode, ...]] = {}
        for kind in MANY:
            for place in range(BYTES_A_ROUND + FIELDS_A_ROUND):
                good = any_number(kind, number * 20 + place + 1)
                self.good[good.key] = good.value
                writes[good.key], by[good.key] = self.chosen(good).value, self.lab.plan.nodes
        self.store.write({key: self.good[key] for key in writes})
        for good, nodes in existing:
            if good.kind == ("Block", "Handle")[number % 2]:
                continue  # of a block that nobody can read the handles are not known
            if good.kind != "own Node":
                self.good[good.key] = good.value
                by[good.key] = nodes
            writes[good.key] = self.chosen(good).value
        revisions = self.store.write(writes)
        self.own_records = {key: revision for key, revision in revisions.items() if key.startswith(NODES)}
        assert len(by) < MOST_NAMED
        return {
            node.name: {shown(key): revisions[key] for key, nodes in by.items() if node in nodes}
            for node in self.lab.plan.nodes
        }

    def mend(self, but: Mapping[str, object]) -> None:
        """Write the good values back of all that is not in `but`."""
        self.store.write({key: value for key, value in self.good.items() if key not in but})


def pids(lab: Lab) -> list[object]:
    return [(lab_processes.agent_status(node) or {})["pid"] for node in lab.plan.nodes]


def is_back(node: LabNode) -> bool:
    """Whether the agent answers, is registered, and has its session with the other node and all that it says."""
    status = lab_processes.agent_status(node)
    return (
        status is not None
        and status["address"] is not None
        and bool(status["converged"])
        and [peer["state"] for peer in status["peers"]] == ["Established"]
    )


def wait_until_named(lab: Lab, wanted: Mapping[str, Mapping[str, int]]) -> None:
    def missing() -> dict[str, object]:
        return {
            node.name: gone
            for node in lab.plan.nodes
            if (gone := dict(wanted[node.name].items() - named(node).items()))
        }

    lab_processes.wait_for("each value to be named", lambda: not missing(), 15, lambda: str(missing())[:2000])


def test_every_kind_of_value_in_every_kind_of_damage_ends_no_agent_and_changes_no_route(
    lab: Lab, store: RawStore, tmp_path: Path
) -> None:
    print(f"seed {SEED}")
    campaign = Campaign(store, lab, random.Random(SEED))
    existing = campaign.existing()
    before = pids(lab)
    monitors = RouteMonitors(lab, tmp_path)
    try:
        for number in range(ROUNDS):
            wanted = campaign.round(number, existing)
            wait_until_named(lab, wanted)
            for node in lab.plan.nodes:
                said = (node.directory / "agent.log").read_text()
                key = f"{NODES}{node.name}"
                assert f"revision={campaign.own_records[key]}" in said, key
            assert monitors.events() == {node.name: [] for node in lab.plan.nodes}, number
            campaign.mend(wanted[lab.plan.nodes[0].name].keys() | wanted[lab.plan.nodes[1].name].keys())
        look_with_commands(lab)
        odd = [key for kind in ("ippools", "nodes", "bgppeers") for key in odd_keys(f"{RESOURCES}{kind}/")]
        odd += odd_keys(f"{IPAM}host/")
        campaign.mend({})
        revisions = store.write({key: any_number("IPPool", 199).value for key in odd})
        wait_until_named(lab, {node.name: {} for node in lab.plan.nodes})
        lab_processes.wait_for(
            "odd keys to be named",
            lambda: all(len(named(node)) >= len(odd) for node in lab.plan.nodes),
            15,
            lambda: str([sorted(named(node)) for node in lab.plan.nodes]),
        )
        store.write(dict.fromkeys(revisions))
        lab_processes.wait_for(
            "nothing to be named", lambda: not any(named(node) for node in lab.plan.nodes), 15
        )
        assert pids(lab) == before
        assert monitors.events() == {node.name: [] for node in lab.plan.nodes}
        assert lost_pings(lab, rounds=1) == 0
    finally:
        monitors.close()
        store.write(dict.fromkeys(key for key in campaign.good if "odd" in key))
    print(dict(Counter(kind for kind, _ in campaign.tried)), len(campaign.tried))
    assert len(campaign.tried) >= LEAST_PAIRS
    for node in lab.plan.nodes:
        assert len(list((node.directory / "state" / "unreadable").iterdir())) >= ROUNDS


def look_with_commands(lab: Lab) -> None:
    """With a round of damages in etcd: each command says what it can, names what it cannot read, and does not fall."""
    words = [
        ["ipam", "check"],
        ["ipam", "show", "--show-blocks"],
        ["get", "nodes"],
        ["get", "workloadendpoints"],
    ]
    environment = {**os.environ, **lab.plan.nodes[0].environment}
    for command in words:
        done = program.run(lab_processes.inside(lab.plan.fabric, [*COMMAND, *command]), env=environment)
        output = done.stdout + done.stderr
        assert "Traceback" not in output, output
        assert done.returncode == (0 if "show" in command else 1), (command, output)
        assert "/calico/" in output, (command, output)
    said = json.loads(tortie_on(lab.plan.nodes[0], "node", "status", "--json"))["troubles"]
    assert any(NAMED.match(text) for text in said)


def test_an_agent_that_starts_among_damaged_values_takes_no_route_down_and_is_right_when_they_are_mended(
    lab: Lab, store: RawStore, tmp_path: Path
) -> None:
    campaign = Campaign(store, lab, random.Random(SEED))
    node = lab.plan.nodes[0]
    kinds = ("IPPool", "WorkloadEndpoint", "BlockAffinity", "Block", "own Node")
    broken = {good.key: good.value for good, _ in campaign.existing() if good.kind in kinds}
    monitors = RouteMonitors(lab, tmp_path)
    try:
        store.write(dict.fromkeys(broken, b"{"))
        lab_processes.stop_agent(node, signal.SIGKILL)
        store.write({f"{NODES}{node.name}": b"[]"})
        lab_processes.start_agents([node])
        lab_processes.wait_for("a session and convergence", lambda: is_back(node), 30)
        assert {key for key in broken if "ippools" in key} <= named(node).keys()
        assert lost_pings(lab, rounds=1) == 0
        store.write({key: value for key, value in broken.items() if not key.startswith(NODES)})
        lab_processes.wait_for("nothing to be named", lambda: not named(node), 15)
        assert lost_pings(lab, rounds=1) == 0
        assert monitors.events() == {one.name: [] for one in lab.plan.nodes}
    finally:
        monitors.close()
    add_pod(lab.plan, "after", node)
    assert lost_pings(lab, rounds=1) == 0
