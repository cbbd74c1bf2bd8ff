"""All that preflight says of a machine, the worst first.

Promises: pure; no finding without evidence and a command line that ends it; what could not be read is said as a note.
Does not know: how facts are read, who prints.
"""

from __future__ import annotations

from agent.preflight.flannel_checks import FLANNEL_CHECKS
from agent.preflight.host_checks import HOST_CHECKS
from agent.preflight.host_facts import HostFacts, HostFinding, Severity
from agent.preflight.network_checks import NETWORK_CHECKS


def findings(facts: HostFacts) -> tuple[HostFinding, ...]:
    """Everything that is not as it should be."""
    found = [one for check in (*NETWORK_CHECKS, *HOST_CHECKS, *FLANNEL_CHECKS) for one in check(facts)]
    if facts.pools_unknown is not None:
        found.append(
            HostFinding(
                Severity.WARNING,
                "the datastore does not answer, so ranges and encapsulations were not checked",
                facts.pools_unknown,
                "tortie config show",
            )
        )
    for what, why in facts.unread.items():
        found.append(
            HostFinding(Severity.NOTE, f"{what} could not be read", why, "sudo tortie node checksystem")
        )
    return tuple(sorted(found, key=lambda one: one.severity))
