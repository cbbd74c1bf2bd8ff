"""Pods of a lab: a network namespace each, attached and detached by real CNI invocations.

Promises: the plugin is run as a container runtime runs it (environment, JSON on standard input, JSON on standard
output); a pod has its file before the plugin is called, so the pod of a lab that was killed is found and removed.
Does not know: what the plugin does.
"""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import suppress
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address, IPv6Address, ip_interface
from pathlib import Path
from uuid import uuid4

from agent.lab.fabric import NAMESPACES, make_namespace, namespaces, remove_namespace
from agent.lab.lab_plan import NETWORK, POD_NAME, LabError, LabNode, LabPlan
from agent.lab.lab_processes import inside, write_json

PLUGIN = Path(__file__).parent.parent / "cni" / "plugin" / "shim.py"
PYTHON = "/usr/bin/python3"
CALL_SECONDS = 120.0
CNI_VERSION = "1.0.0"


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod as its file has it; `address` is empty until the plugin has answered."""

    name: str
    node: str
    container_id: str
    address: str = ""
    address6: str = ""

    @property
    def ip(self) -> IPv4Address:
        """Its address."""
        return IPv4Address(self.address)

    @property
    def ip6(self) -> IPv6Address:
        """Its address in a dual-stack lab."""
        return IPv6Address(self.address6)


def _file(plan: LabPlan, name: str) -> Path:
    return plan.directory / "pods" / f"{name}.json"


def pods(plan: LabPlan) -> list[Pod]:
    """All pods of the lab, by name."""
    found = []
    for path in (plan.directory / "pods").glob("*.json"):
        with suppress(FileNotFoundError):  # another caller removed it just now
            found.append(Pod(**json.loads(path.read_text())))
    return sorted(found, key=lambda pod: pod.name)


def pod_named(plan: LabPlan, name: str) -> Pod:
    """The pod of this name. Raises LabError."""
    known = {pod.name: pod for pod in pods(plan)}
    if name not in known:
        raise LabError(f"lab {plan.name} has no pod {name!r}; it has {', '.join(known) or 'none'}")
    return known[name]


def add_pod(plan: LabPlan, name: str, node: LabNode) -> Pod:
    """A new pod on a node. Raises LabError with the plugin's own words; then nothing is left of it."""
    if not POD_NAME.fullmatch(name):
        raise LabError(f"pod {name!r}: up to forty lower-case letters, digits and dashes, not at the ends")
    if _file(plan, name).exists():
        raise LabError(f"lab {plan.name} has a pod {name} already; remove it with: tortie lab pod rm {name}")
    pod = Pod(name, node.name, uuid4().hex + uuid4().hex)
    write_json(_file(plan, name), asdict(pod))
    make_namespace(plan.pod_namespace(name))
    try:
        result = json.loads(call_plugin(plan, pod, "ADD"))
        addresses = {
            one.version: str(one.ip) for one in (ip_interface(row["address"]) for row in result["ips"])
        }
        pod = Pod(name, node.name, pod.container_id, addresses[4], addresses.get(6, ""))
    except BaseException:
        with suppress(LabError):
            remove_pod(plan, pod)
        raise
    write_json(_file(plan, name), asdict(pod))
    return pod


def remove_pod(plan: LabPlan, pod: Pod) -> None:
    """Detach and remove a pod. Raises LabError when the plugin fails; the pod then stays, to be tried again."""
    call_plugin(plan, pod, "DEL")
    remove_namespace(plan.pod_namespace(pod.name))
    _file(plan, pod.name).unlink(missing_ok=True)


def call_plugin(plan: LabPlan, pod: Pod, verb: str) -> str:
    """Run the plugin on the pod's node as a runtime does; its standard output. Raises LabError."""
    node = plan.node(pod.node)
    namespace = plan.pod_namespace(pod.name)
    environment = {
        **os.environ,
        **node.environment,
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": pod.container_id,
        "CNI_NETNS": str(NAMESPACES / namespace) if namespace in namespaces(namespace) else "",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(PLUGIN.parent),
        "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod.name}",
    }
    document: dict[str, object] = {"cniVersion": CNI_VERSION, "name": NETWORK, "type": "tortie"}
    if plan.dual_stack:
        document["ipam"] = {"type": "tortie-ipam", "assign_ipv4": "true", "assign_ipv6": "true"}
    try:
        done = subprocess.run(
            inside(node.namespace, [PYTHON, "-IS", str(PLUGIN)]),
            input=json.dumps(document),
            capture_output=True,
            text=True,
            env=environment,
            timeout=CALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise LabError(
            f"pod {pod.name}: the plugin gave no answer to {verb} within {CALL_SECONDS:g} s"
        ) from None
    if done.returncode != 0:
        raise LabError(
            f"pod {pod.name}: {verb} on {pod.node} failed: {_reason(done.stdout) or done.stderr.strip()}"
        )
    return done.stdout


def _reason(output: str) -> str:
    with suppress(ValueError, AttributeError):
        error = json.loads(output)
        return (
            f"{error['msg']} (code {error['code']}){': ' + error['details'] if error.get('details') else ''}"
        )
    return output.strip()
