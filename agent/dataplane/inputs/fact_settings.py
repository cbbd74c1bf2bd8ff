"""The settings that are facts, out of all settings of the agent.

Promises: pure. Does not know: where a setting came from.
"""

from __future__ import annotations

from agent.configuration.config import Config, accepted_prefixes, local_prefixes
from agent.dataplane.inputs.facts import FactSettings
from agent.dataplane.kernel.ownership import Ownership
from ipam.selector import parse


def fact_settings(config: Config) -> FactSettings:
    """The settings that are facts."""
    marks, kernel, workloads = config.routes, config.kernel, config.workloads
    return FactSettings(
        Ownership(marks.learned, marks.blackhole, marks.datastore, marks.tunnel, marks.workload),
        open_forward=kernel.open_forward,
        from_datastore=marks.source == "datastore",
        tunnel_offload={"on": True, "off": False}.get(kernel.tunnel_offload),
        local_prefixes=local_prefixes(config.bgp),
        accepted_prefixes=accepted_prefixes(config.bgp),
        filter_workloads=workloads.filter,
        peers=parse(workloads.peers) if workloads.peers.strip() else None,
        routers=parse(workloads.routers) if workloads.routers.strip() else None,
    )
