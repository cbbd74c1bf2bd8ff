"""Prometheus' own tool reads the alert rules, and each fires for what it is there for and for nothing else."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.trouble import TroubleKind

ALERTS = Path(__file__).parents[3] / "monitoring" / "alerts.yml"
NODE = 'instance="node1",job="tortie"'
MINUTES = 20
"""Longer than any alert waits."""
FLAT, GOOD, ONE, RISING = f"0x{MINUTES}", f"1x{MINUTES}", f"1x{MINUTES}", f"0+10x{MINUTES}"
HISTOGRAM = "tortie_cni_request_duration_seconds"

CAUSES: dict[str, dict[str, str]] = {
    "TortieAgentDown": {f"up{{{NODE}}}": FLAT},
    "TortieNotReady": {f"tortie_ready{{{NODE}}}": FLAT},
    "TortieDatastoreAway": {f"tortie_datastore_up{{{NODE}}}": FLAT},
    "TortieBgpPeerDown": {f'tortie_bgp_peer_up{{{NODE},peer="p"}}': FLAT, f"tortie_drained{{{NODE}}}": FLAT},
    "TortieBgpPeerFlaps": {f'tortie_bgp_peer_sessions_total{{{NODE},peer="p"}}': RISING},
    "TortieKernelRefuses": {f"tortie_kernel_refused{{{NODE}}}": ONE},
    "TortieTrouble": {f'tortie_troubles{{{NODE},kind="route"}}': ONE},
    "TortieNotEnforced": {f'tortie_not_enforced{{{NODE},what="w"}}': ONE},
    "TortieRemovalHeld": {f"tortie_kernel_removals_held{{{NODE}}}": ONE},
    "TortieDrift": {f'tortie_kernel_drift_repaired_total{{{NODE},kind="route"}}': RISING},
    "TortieCniSlow": {
        f'{HISTOGRAM}_bucket{{{NODE},verb="ADD",code="0",le="1"}}': FLAT,
        f'{HISTOGRAM}_bucket{{{NODE},verb="ADD",code="0",le="5"}}': RISING,
        f'{HISTOGRAM}_bucket{{{NODE},verb="ADD",code="0",le="+Inf"}}': RISING,
    },
    "TortieCniFails": {f'{HISTOGRAM}_count{{{NODE},verb="ADD",code="11"}}': RISING},
    "TortiePartFails": {f'tortie_part_failures_total{{{NODE},part="p"}}': RISING},
    "TortieLoopLate": {f"tortie_event_loop_lag_seconds{{{NODE}}}": f"2x{MINUTES}"},
    "TortieEtcdCertificateExpires": {
        f'tortie_etcd_certificate_expiry_time_seconds{{{NODE},file="f"}}': f"86400x{MINUTES}"
    },
    "TortieDatastoreWentBack": {f"tortie_etcd_went_back_total{{{NODE}}}": RISING},
    "TortiePoolNearlyCut": {
        f'tortie_ipam_blocks{{{NODE},pool="p"}}': f"95x{MINUTES}",
        f'tortie_ipam_pool_blocks{{{NODE},pool="p"}}': f"100x{MINUTES}",
    },
    "TortiePoolNearlyFull": {
        f'tortie_ipam_allocations_in_use{{{NODE},pool="p"}}': f"95x{MINUTES}",
        f'tortie_ipam_pool_size{{{NODE},pool="p"}}': f"100x{MINUTES}",
    },
}
"""Alert -> series by which it fires, in Prometheus' notation of test series, a sample a minute."""
WELL = {f"tortie_build_info{{{NODE}}}": GOOD, f"up{{{NODE}}}": GOOD}


def promtool(*words: str) -> str:
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def firing(series: dict[str, str], expected: list[tuple[str, str]]) -> dict[str, Any]:
    """A test of the tool: with these series exactly these alerts fire, each with a label."""
    samples = [{"labels": f'{{alertname="{name}"{label}}}', "value": 1} for name, label in expected]
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname, kind) (ALERTS{alertstate="firing"})',
                "eval_time": f"{MINUTES}m",
                "exp_samples": samples,
            }
        ],
    }


def each_alert() -> Iterator[dict[str, Any]]:
    for name, causes in CAUSES.items():
        label = ',kind="route"' if name in {"TortieTrouble", "TortieDrift"} else ""
        yield firing({**WELL, **causes}, [(name, label)])


def each_kind() -> Iterator[dict[str, Any]]:
    series = {f'tortie_troubles{{{NODE},kind="{kind}"}}': ONE for kind in TroubleKind}
    yield firing({**WELL, **series}, [("TortieTrouble", f',kind="{kind}"') for kind in TroubleKind])


def test_every_rule_is_one_that_prometheus_takes_and_has_a_cause_here() -> None:
    assert "SUCCESS" in promtool("check", "rules", str(ALERTS))
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    assert [rule["alert"] for rule in group["rules"]] == list(CAUSES)


@pytest.mark.parametrize("tests", [each_alert, each_kind], ids=["each alert", "each kind of trouble"])
def test_what_is_wrong_fires_its_alert_and_no_other(tests: Any, tmp_path: Path) -> None:
    cases = [firing(WELL, []), *tests()]
    file = tmp_path / "alerts-test.yml"
    file.write_text(
        yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": cases})
    )
    promtool("test", "rules", str(file))
