"""One field of every kind of stored value is junk, round after round, on a lab that lives.

`python -m tests.chaos.junk_fields [--rounds N] [--seed N]`, or `make junk`. In each round one value of each kind that
Calico stores gets junk in one of its fields: what no reader may take there. No route may change, no address be freed
or given, no agent end; every node that depends on the value names its key and revision within a second, and forgets it
within a second of its mending.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from agent.lab import lab_processes, lifecycle
from agent.lab.lab_plan import LabError, LabNode, Mode
from agent.lab.lab_processes import ip_route
from agent.lab.lifecycle import Lab
from agent.lab.pods import add_pod
from ipam import block as blocks
from ipam.codec import encode_affinity, encode_block, encode_config, encode_handle
from ipam.keys import (
    BLOCKS,
    HANDLES,
    HOSTS,
    IPAM,
    IPAM_CONFIG,
    RESOURCES,
    affinity_key,
    affinity_of_key,
    block_key,
    handle_key,
    is_fence,
    resource_key,
)
from ipam.model import AffinityState, Attributes, Handle, HandleId, IpamConfig, NodeName
from tests.scenes.datastore.damages import RESERVATION, Damage, Good, document, field_damages
from tests.scenes.datastore.damages import RESOURCES as EXAMPLES
from tests.scenes.lab.lab_nodes import lost_pings
from tests.scenes.lab.labs import RouteMonitors, named, wait_until_quiet, wait_until_routed
from tests.scenes.lab.raw_store import RawStore, raw_store

OTHER = NodeName("node-2")
"""A node of the cluster that is no machine: all that others know of it is stored."""
OTHERS_BLOCK = ip_network("192.168.255.192/26")
NAMED = re.compile(r"(.+?): revision (\d+) cannot be read: ")
NODES, ENDPOINTS = f"{RESOURCES}nodes/", f"{RESOURCES}workloadendpoints/"
LIMITED = ("Profile", "Tier", "FelixConfiguration")
UNREAD = (
    "NetworkPolicy",
    "GlobalNetworkPolicy",
    "HostEndpoint",
    "ClusterInformation",
    "KubeControllersConfiguration",
)
"""Kinds of which nobody here reads a value."""
PINGS_EVERY = 20
TOLD_SECONDS = 1.0
ALONE = 0.5
"""Of all rounds: one value alone is junk, of any kind."""
STILL_SECONDS = 0.3
"""What a wrong pass would change, it would have changed by then."""
ALLOW = {"action": "Allow", "source": {"nets": ["10.0.0.0/8"]}, "destination": {}}


@dataclass(frozen=True)
class Stored:
    """A good value, and who must name it when it is bad."""

    good: Good
    named_by: tuple[LabNode, ...]
    is_rewritten: bool = False
    """By its node, which is said in the log."""


@dataclass
class Campaign:
    """All rounds on one lab."""

    lab: Lab
    store: RawStore
    chance: random.Random
    values: list[Stored] = field(default_factory=list)
    tried: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(kind, field) -> how often it was junk."""
    fields: dict[str, set[str]] = field(default_factory=dict)
    slowest: float = 0.0
    violations: list[str] = field(default_factory=list)
    rounds: int = 0
    told_seconds: float = TOLD_SECONDS

    def prepare(self) -> None:
        """Store a value of each kind that the lab has none of, and note all that there is."""
        made = additions()
        self.store.write({good.key: good.value for good in made})
        lab_processes.wait_for("routes that follow from them", self._is_routed, 30)
        nodes = self.lab.plan.nodes
        self.values = [
            Stored(good, () if is_unread(good) else nodes)
            for good in made
            if good.kind != "Node" or good.key.endswith(OTHER)
        ]
        mine = {good.key for good in made}
        self.values += [
            self._existing(key, value) for key, value in self._listed().items() if key not in mine
        ]

    def _is_routed(self) -> bool:
        return all(str(OTHERS_BLOCK) in "".join(ip_route(node)) for node in self.lab.plan.nodes)

    def _listed(self) -> dict[str, bytes]:
        found = {**self.store.below(RESOURCES), **self.store.below(IPAM)}
        return {key: value for key, value in found.items() if not is_fence(key)}

    def _existing(self, key: str, value: bytes) -> Stored:
        raw = json.loads(value)
        owners = {node.name: (node,) for node in self.lab.plan.nodes}
        every = self.lab.plan.nodes
        if key.startswith(RESOURCES):
            kind = raw["kind"]
            if key.startswith(ENDPOINTS):
                return Stored(Good(kind, key, value), owners[raw["spec"]["node"]])
            if key.startswith(NODES):
                return Stored(
                    Good("own Node", key, value), owners[raw["metadata"]["name"]], is_rewritten=True
                )
            return Stored(Good(kind, key, value), () if kind in UNREAD else every)
        if key.startswith(BLOCKS):
            return Stored(Good("Block", key, value), owners[raw["affinity"].removeprefix("host:")])
        if key.startswith(HANDLES):
            (cidr,) = raw["block"]
            block = json.loads(self.store.below(block_key(ip_network(cidr)))[block_key(ip_network(cidr))])
            return Stored(Good("Handle", key, value), owners[block["affinity"].removeprefix("host:")])
        claim = affinity_of_key(key)
        assert claim is not None, key
        return Stored(Good("BlockAffinity", key, value), every)

    def choose(self) -> dict[str, tuple[Stored, Damage]]:
        """Of one kind or of each one value, and junk for that of its fields that was junk least often."""
        by_kind: dict[str, list[Stored]] = {}
        for one in self.values:
            by_kind.setdefault(one.good.kind, []).append(one)
        chosen = {}
        # Damage that comes alone is seen by nothing else that changes.
        alone = self.chance.choice(sorted(by_kind)) if self.chance.random() < ALONE else None
        for kind, values in by_kind.items():
            if alone not in (kind, None):
                continue
            one = self.chance.choice(values)
            if one.is_rewritten:
                one = Stored(
                    Good(kind, one.good.key, self.store.below(one.good.key)[one.good.key]), one.named_by, True
                )
            by_field: dict[str, list[Damage]] = {}
            for damage in field_damages(one.good):
                if damage.is_certain:
                    by_field.setdefault(damage.name.split(" is ")[0], []).append(damage)
            self.fields.setdefault(kind, set()).update(by_field)
            least = min(self.tried[kind, name] for name in by_field)
            name = self.chance.choice(sorted(name for name in by_field if self.tried[kind, name] == least))
            self.tried[kind, name] += 1
            chosen[one.good.key] = one, self.chance.choice(by_field[name])
        return chosen

    def round(self, monitors: RouteMonitors) -> None:
        """Junk, what must hold meanwhile, and its mending."""
        chosen = self.choose()
        before = self._addresses()
        logs = {node.name: (node.directory / "agent.log").stat().st_size for node in self.lab.plan.nodes}
        revisions = self.store.write({key: damage.value for key, (_, damage) in chosen.items()})
        wanted = {
            node.name: {
                key: revisions[key]
                for key, (one, _) in chosen.items()
                if node in one.named_by and not one.is_rewritten
            }
            for node in self.lab.plan.nodes
        }
        words = {key: damage.name for key, (_, damage) in chosen.items()}
        self._within("named", lambda: self._not_named(wanted), words)
        self._within("said to be rewritten", lambda: self._not_rewritten(chosen, revisions, logs), words)
        time.sleep(STILL_SECONDS)
        self._look(
            monitors,
            before | {key: damage.value for key, (_, damage) in chosen.items() if key in before},
            words,
        )
        self.store.write({key: one.good.value for key, (one, _) in chosen.items() if not one.is_rewritten})
        self._within("forgotten", self._still_named, words)
        self._look(monitors, before, words)
        self.rounds += 1

    def _addresses(self) -> dict[str, bytes]:
        """All that says who has which address."""
        found = self._listed()
        return {
            key: value for key, value in found.items() if key.startswith((BLOCKS, HANDLES, HOSTS, ENDPOINTS))
        }

    def _within(self, what: str, missing: Callable[[], object], words: dict[str, str]) -> None:
        began = time.monotonic()
        try:
            lab_processes.wait_for(what, lambda: not missing(), 10)
        except LabError:
            left = missing()
            self.violations.append(f"not {what}: {left}; junk was {words}")
        took = time.monotonic() - began
        self.slowest = max(self.slowest, took)
        if took > self.told_seconds:
            self.violations.append(f"{what} after {took:.2f} s alone; junk was {words}")

    def _not_named(self, wanted: dict[str, dict[str, int]]) -> object:
        found = {
            node.name: dict(wanted[node.name].items() - names(node).items()) for node in self.lab.plan.nodes
        }
        return {node: keys for node, keys in found.items() if keys}

    def _still_named(self) -> object:
        found = {node.name: names(node) for node in self.lab.plan.nodes}
        return {node: keys for node, keys in found.items() if keys}

    def _not_rewritten(
        self, chosen: dict[str, tuple[Stored, Damage]], revisions: dict[str, int], logs: dict[str, int]
    ) -> object:
        missing = []
        for key, (one, _) in chosen.items():
            if one.is_rewritten:
                (node,) = one.named_by
                with (node.directory / "agent.log").open() as log:
                    log.seek(logs[node.name])
                    if f"revision={revisions[key]}" not in log.read():
                        missing.append(key)
        return missing

    def _look(self, monitors: RouteMonitors, addresses: dict[str, bytes], words: dict[str, str]) -> None:
        if any(events := monitors.events().values()):
            self.violations.append(f"routes changed: {[*events]}; junk was {words}")
        now = self._addresses()
        changed = {key for key in now.keys() | addresses.keys() if now.get(key) != addresses.get(key)}
        if changed:
            self.violations.append(f"addresses changed: {sorted(changed)}; junk was {words}")

    def __str__(self) -> str:
        """For people."""
        lines = [
            f"{self.rounds} rounds, {self.tried.total()} values with junk, told within {self.slowest:.2f} s"
        ]
        for kind, fields in sorted(self.fields.items()):
            left = sorted(name for name in fields if not self.tried[kind, name])
            lines.append(
                f"  {kind}: {len(fields) - len(left)} of {len(fields)} fields{f'; not yet {left[:8]}' if left else ''}"
            )
        return "\n".join([*lines, *self.violations])


def is_unread(good: Good) -> bool:
    """Whether nobody in the lab reads a value: its kind's, another node's endpoint, block or handle."""
    return good.kind in (*UNREAD, "another's Endpoint", "another's Block", "another's Handle")


def additions() -> list[Good]:
    """A value of each kind, with every field, that changes nothing of how the lab's pods are reached."""
    found = {good.kind: good for good in EXAMPLES}
    spec = json.loads(found["BGPConfiguration"].value)["spec"]
    cluster = {name: value for name, value in spec.items() if name not in ("nodeMeshPassword", "asNumber")}
    block, _ = blocks.assign(
        blocks.new_block(OTHERS_BLOCK, OTHER, "2026-01-01T00:00:00Z", 5),
        2,
        Attributes(HandleId("others"), (("node", OTHER), ("pod", "web"))),
    )
    endpoint = found["WorkloadEndpoint"]
    more: list[tuple[str, str, str, Any, str | None]] = [
        ("BGPConfiguration", "bgpconfigurations", "default", cluster, None),
        ("BGPConfiguration", "bgpconfigurations", f"node.{OTHER}", spec, None),
        ("Profile", "profiles", "closed", {"ingress": [ALLOW], "egress": [ALLOW], "labelsToApply": {"a": "b"}}, None),
        ("Tier", "tiers", "mine", {"order": 10.5, "defaultAction": "Deny"}, None),
        ("NetworkPolicy", "networkpolicies", "deny", {"types": ["Ingress"], "selector": "all()"}, "default"),
        ("GlobalNetworkPolicy", "globalnetworkpolicies", "deny", {"types": ["Ingress"], "order": 1}, None),
        ("HostEndpoint", "hostendpoints", "node1-eth0", {"node": "node1", "interfaceName": "eth0"}, None),
        ("FelixConfiguration", "felixconfigurations", "default", {
            "wireguardEnabled": True, "bpfEnabled": True, "vxlanVNI": 4096, "vxlanMTU": 1400, "floatingIPs": "Enabled",
            "externalNodesList": ["10.0.0.0/8"], "defaultEndpointToHostAction": "Drop",
        }, None),
        ("KubeControllersConfiguration", "kubecontrollersconfigurations", "default", {"logSeverity": "Info"}, None),
    ]  # fmt: skip
    return [
        *(found[kind] for kind in ("IPPool", "Node", "BGPPeer", "BGPFilter", "BFDConfiguration")),
        RESERVATION,
        *(
            Good(kind, resource_key(plural, name, space), document(kind, name, spec, space))
            for kind, plural, name, spec, space in more
        ),
        Good("IPAMConfig", IPAM_CONFIG, encode_config(IpamConfig(True, True, 7, 30))),
        Good("another's Endpoint", endpoint.key, endpoint.value),
        Good("another's Block", block_key(OTHERS_BLOCK), encode_block(block)),
        Good(
            "another's Handle",
            handle_key(HandleId("others")),
            encode_handle(Handle(HandleId("others"), ((OTHERS_BLOCK, 2),))),
        ),
        Good("BlockAffinity", affinity_key(OTHER, OTHERS_BLOCK), encode_affinity(AffinityState.CONFIRMED)),
    ]


def names(node: LabNode) -> dict[str, int]:
    """Key -> revision of each unreadable value that the node's status names."""
    status = lab_processes.agent_status(node) or {"troubles": []}
    found = (NAMED.match(text) for text in status["troubles"])
    return {match[1]: int(match[2]) for match in found if match is not None}


def run(
    lab: Lab,
    directory: Path,
    rounds: int,
    seed: int,
    report: Callable[[str], None],
    told_seconds: float = TOLD_SECONDS,
) -> Campaign:
    """So many rounds; ends at the first that leaves something wrong."""
    pids = [(lab_processes.agent_status(node) or {}).get("pid") for node in lab.plan.nodes]
    with raw_store(lab.plan) as store:
        campaign = Campaign(lab, store, random.Random(seed), told_seconds=told_seconds)
        campaign.prepare()
        wait_until_quiet(lab)
        lab_processes.wait_for("nothing to be named", lambda: not any(map(names, lab.plan.nodes)), 15)
        lab_processes.wait_for("pings", lambda: lost_pings(lab, rounds=1) == 0, 30)
        monitors = RouteMonitors(lab, directory)
        try:
            for number in range(1, rounds + 1):
                campaign.round(monitors)
                if number % PINGS_EVERY == 0 or number == rounds:
                    report(f"round {number}: within {campaign.slowest:.2f} s")
                    if lost := lost_pings(lab, rounds=1):
                        campaign.violations.append(f"{lost} pings were lost")
                if campaign.violations:
                    break
        finally:
            monitors.close()
    if pids != [(lab_processes.agent_status(node) or {}).get("pid") for node in lab.plan.nodes]:
        campaign.violations.append("an agent ended")
    return campaign


def main() -> None:
    """Exit code 1 if something did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.junk_fields", description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="replays what was chosen")
    given = parser.parse_args()
    name = named("junk")
    print(f"seed {given.seed}", flush=True)
    try:
        lab = lifecycle.up(name, 2, Mode.VXLAN, lambda text: None)
        for number in range(6):
            add_pod(lab.plan, f"p{number + 1}", lab.plan.nodes[number % 2])
        wait_until_routed(lab)
        with tempfile.TemporaryDirectory() as directory:
            campaign = run(
                lab, Path(directory), given.rounds, given.seed, lambda text: print(text, flush=True)
            )
        if campaign.violations:
            lifecycle.copy_logs(lab.plan)
    finally:
        lifecycle.down(name)
    print(campaign)
    sys.exit(1 if campaign.violations else 0)


if __name__ == "__main__":
    main()
