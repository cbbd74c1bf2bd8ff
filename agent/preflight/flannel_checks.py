"""What preflight says of a flannel that was here or still runs: what of it hurts, and what only lies there.

Promises: pure; each finding has evidence and a command line that ends it. That flannel's interface or route lies in a
pool, or its conflist comes before ours, is found by checks that do not ask whose they are.
Does not know: how facts are read.
"""

from __future__ import annotations

from collections.abc import Iterator

from agent.preflight.host_facts import FlannelChain, HostFacts, HostFinding, Severity

FLANNELD = "flanneld"
DEVICES = ("flannel.1", "flannel-v6.1", "flannel-wg", "flannel-wg-v6", "cni0")


def _running(facts: HostFacts) -> Iterator[HostFinding]:
    for process in facts.running(FLANNELD):
        yield HostFinding(
            Severity.WARNING,
            "flannel runs, and writes its routes and rules again whenever they go",
            f"{process} runs; beside the agent both networks work, as long as their ranges are apart",
            process.stop_command,
        )


def _rules(facts: HostFacts) -> Iterator[HostFinding]:
    """Its masquerading is for its own range; where a pool lies in it, it is for pods as well."""
    if not facts.flannel.chains:
        return
    networks = facts.flannel.networks
    hit = [
        pool.name
        for pool in facts.pools
        if any(pool.cidr.version == network.version and pool.cidr.overlaps(network) for network in networks)
    ]
    chains = ", ".join(map(str, facts.flannel.chains))
    commands = " && ".join(dict.fromkeys(map(removal, facts.flannel.chains)))
    if hit or not networks:
        of = f"pool {', '.join(hit)} overlaps its range" if hit else "its range is not known"
        yield HostFinding(
            Severity.WARNING,
            "flannel's rules masquerade what pods send and what comes to them",
            f"{chains}; {of}",
            commands,
        )
    else:
        yield HostFinding(
            Severity.NOTE, "flannel left rules; they concern its own range alone", chains, commands
        )


def removal(chain: FlannelChain) -> str:
    """The command line that takes a chain, and what leads to it, away."""
    if chain.origin == "nftables" and chain.table.startswith("flannel-"):
        return f"nft delete table {chain.family} {chain.table}"
    program = "iptables" if chain.family == "ip" else "ip6tables"
    words = f"{program}{'-legacy' if chain.origin == 'iptables-legacy' else '-nft'} -t {chain.table}"
    hook, comment = (
        ("POSTROUTING", "flanneld masq") if chain.table == "nat" else ("FORWARD", "flanneld forward")
    )
    jump = f'{words} -D {hook} -m comment --comment "{comment}" -j {chain.name}'
    return f"{jump}; {words} -F {chain.name} && {words} -X {chain.name}"


def _devices(facts: HostFacts) -> Iterator[HostFinding]:
    """Those that bear no address of a pool: of the others an error says more."""
    found = [
        name
        for name in DEVICES
        if name in facts.links
        and not any(address in pool for address, _ in facts.links[name].addresses for pool in facts.pools)
    ]
    if found and not facts.running(FLANNELD):
        yield HostFinding(
            Severity.NOTE,
            "flannel left interfaces; its own pods need them as long as there are some",
            ", ".join(found),
            " && ".join(f"ip link del {name}" for name in found),
        )


FLANNEL_CHECKS = (_running, _rules, _devices)
