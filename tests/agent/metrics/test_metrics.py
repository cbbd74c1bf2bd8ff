"""What monitoring sees: every name is documented and told, alerts name what exists."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Address

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from agent.dataplane.report import Report
from agent.metrics.exposition import Exposition
from agent.metrics.pool_gauges import PoolReadings
from agent.metrics.series import CATALOGUE, EtcdReadings, MetricType, Readings, series
from agent.trouble import TroubleKind
from bgp.peer_status import PeerStatus
from bgp.session.fsm import State
from tests import ROOT

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PEER = PeerStatus(
    address=IPv4Address("10.0.0.2"),
    asn=64512,
    description="node2",
    state=State.ESTABLISHED,
    since=NOW,
    received=7,
    announced=3,
    last_error="",
    restarting=False,
    sessions=2,
    messages_sent=(("UPDATE", 5),),
)
KERNEL = Report(
    passes=9,
    last_pass=NOW,
    last_pass_seconds=0.25,
    trouble=None,
    objects={"route": 4},
    written={"route": 4},
    removed={},
    drift={"route": 1},
    overruns=0,
    refused={"10.0.0.0/26": "no"},
    conflicts={},
    held={},
    waiting={},
    not_in_force={},
)
READINGS = Readings(
    version="0.1.0",
    started=NOW,
    ready=True,
    in_sync=True,
    datastore_up=True,
    converged=True,
    drained=False,
    pods=2,
    own_blocks=1,
    pools=(PoolReadings("default", size=256, most_blocks=4, blocks=3, own_blocks=1, in_use=5),),
    nodes=3,
    troubles={"route": 2},
    peers=(PEER,),
    kernel=KERNEL,
    etcd=EtcdReadings(revision=77, certificates={"/c.pem": NOW}, rotations=1, watch_restarts=2, went_back=0),
    loop_lag_seconds=0.002,
    part_failures={"node": 2},
    log_lines_lost=3,
    filter_drops={"bgp": 4},
    not_enforced={"NetworkPolicy": 6},
    reclaimed={"node": 2, "address": 9},
)


def told(exposition: Exposition) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample, as Prometheus itself reads the text."""
    families = text_string_to_metric_families(exposition.text().decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_every_name_in_the_catalogue_is_told_and_no_other() -> None:
    made = [definition.name for definition, _ in series(READINGS)]
    assert sorted(made) == sorted(
        name for name, one in CATALOGUE.items() if one.type is not MetricType.HISTOGRAM
    )


def test_prometheus_reads_what_the_agent_knows() -> None:
    exposition = Exposition(lambda: READINGS)
    exposition.answered("ADD", 0, 0.012)
    exposition.answered("ADD", 11, 2.0)
    samples = told(exposition)
    peer = ("peer", "10.0.0.2")
    assert samples["tortie_bgp_peer_up", (peer,)] == 1
    assert samples["tortie_filter_dropped_packets_total", (("reason", "bgp"),)] == 4
    assert samples["tortie_not_enforced", (("what", "NetworkPolicy"),)] == 6
    assert samples["tortie_reclaimed_total", (("what", "address"),)] == 9
    assert samples["tortie_bgp_peer_state", (peer, ("state", "Established"))] == 1
    assert samples["tortie_bgp_peer_state", (peer, ("state", "Idle"))] == 0
    assert samples["tortie_bgp_peer_prefixes_received", (peer,)] == 7
    assert samples["tortie_bgp_peer_messages_total", (("direction", "sent"), ("kind", "UPDATE"), peer)] == 5
    pool = (("pool", "default"),)
    assert samples["tortie_ipam_allocations_in_use", pool] == 5
    assert samples["tortie_ipam_blocks", pool] / samples["tortie_ipam_pool_blocks", pool] == 0.75
    assert samples["tortie_ipam_own_addresses", pool] == 64
    assert samples["tortie_kernel_objects", (("kind", "route"),)] == 4
    assert samples["tortie_kernel_drift_repaired_total", (("kind", "route"),)] == 1
    assert samples["tortie_kernel_refused", ()] == 1
    assert samples["tortie_troubles", (("kind", "route"),)] == 2
    others = {("kind", kind.value) for kind in TroubleKind if kind is not TroubleKind.ROUTE}
    assert [samples["tortie_troubles", (one,)] for one in others] == [0] * len(others)
    assert samples["tortie_part_failures_total", (("part", "node"),)] == 2
    assert samples["tortie_start_time_seconds", ()] == NOW.timestamp()
    assert samples["tortie_build_info", (("version", "0.1.0"),)] == 1
    count = "tortie_cni_request_duration_seconds_count"
    assert samples[count, (("code", "0"), ("verb", "ADD"))] == 1
    assert samples[count, (("code", "11"), ("verb", "ADD"))] == 1


def test_two_agents_in_one_process_do_not_mix_their_series() -> None:
    one, other = Exposition(lambda: READINGS), Exposition(lambda: replace(READINGS, pods=40))
    assert told(one)["tortie_pods", ()] == 2
    assert told(other)["tortie_pods", ()] == 40


def test_the_documentation_lists_exactly_what_there_is() -> None:
    lines = (ROOT / "docs" / "metrics.md").read_text().splitlines()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("| tortie_")
    ]
    assert rows == [
        [one.name, one.type.value, ", ".join(one.labels), one.meaning]
        for one in sorted(CATALOGUE.values(), key=lambda one: one.name)
    ]


@pytest.mark.parametrize("name", ["alerts.yml", "dashboard.json"])
def test_alerts_and_the_dashboard_name_only_what_exists(name: str) -> None:
    loaded = yaml.safe_load((ROOT / "monitoring" / name).read_text())
    if name == "alerts.yml":
        expressions = [rule["expr"] for rule in loaded["groups"][0]["rules"]]
    else:
        expressions = [target["expr"] for panel in loaded["panels"] for target in panel["targets"]]
    for expression in expressions:
        named = re.findall(r"tortie_[a-z_]+", expression)
        assert named, expression
        for found in named:
            known = re.sub(r"_(bucket|count|sum)$", "", found)
            assert found in CATALOGUE or known in CATALOGUE, expression
    assert len(expressions) > 10


def test_every_kind_of_trouble_has_an_alert_which_names_the_kind() -> None:
    (group,) = yaml.safe_load((ROOT / "monitoring" / "alerts.yml").read_text())["groups"]
    (rule,) = [rule for rule in group["rules"] if rule["alert"] == "TortieTrouble"]
    assert rule["expr"] == "tortie_troubles > 0"  # a series of each kind, whatever kinds there will be
    assert CATALOGUE["tortie_troubles"].labels == ("kind",)
    assert "{{ $labels.kind }}" in rule["annotations"]["summary"]
