"""The records of living pods: what they survive, and what ends them."""

from __future__ import annotations

import os
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import pytest

from agent.cni.living_pods import LivingPods, Record, record_of_endpoint
from agent.datastore.resources.resource_types import Metadata, WorkloadEndpoint, WorkloadEndpointSpec
from ipam.model import HandleId, NodeName

BOOT = "boot-1"
A, B = ip_address("10.0.0.1"), ip_address("10.0.0.2")


def endpoint(container: str = "c1", device: str = "cali1", address: str = "10.0.0.1") -> WorkloadEndpoint:
    return WorkloadEndpoint(
        metadata=Metadata(name=f"n-k8s-{device}-eth0", namespace="default"),
        spec=WorkloadEndpointSpec(
            node="n",
            orchestrator="k8s",
            workload=device,
            container_id=container,
            endpoint="eth0",
            interface_name=device,
            ip_networks=[f"{address}/32"],
            profiles=["net"],
        ),
    )


class Machine:
    """Devices, a state directory, and one life of the agent after the other."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.devices = {"cali1", "cali2"}

    def life(self, boot: str = BOOT, node: str = "n") -> LivingPods:
        made = LivingPods(self.state, boot, self.devices.__contains__, NodeName(node))
        made.load()
        return made


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_machine_that_was_renamed_knows_its_pods_under_its_new_name(machine: Machine) -> None:
    machine.life().add(record_of_endpoint(endpoint(), BOOT))
    renamed = machine.life(node="n-1.example")
    (found,) = renamed
    assert (found.words["node"], found.key) == (
        "n-1.example",
        "/calico/resources/v3/projectcalico.org/workloadendpoints/default/n--1.example-k8s-cali1-eth0",
    )
    assert found.endpoint is not None
    assert (found.endpoint.spec.node, renamed.endpoint(str(found.key))) == ("n-1.example", found.endpoint)
    assert renamed.in_use == {A: found.handle}
    (again,) = machine.life()
    assert again == record_of_endpoint(endpoint(), BOOT)


def test_a_record_outlives_the_agent_and_ends_with_its_device_its_boot_or_its_del(machine: Machine) -> None:
    record = record_of_endpoint(endpoint(), BOOT)
    machine.life().add(record)
    (found,) = machine.life()
    assert (found, machine.life().in_use) == (record, {A: record.handle})
    assert found.words == {
        "node": "n",
        "network": "net",
        "boot": BOOT,
        "namespace": "default",
        "pod": "cali1",
    }
    assert list(machine.life("boot-2")) == []
    machine.life().add(record)
    living = machine.life()
    machine.devices.clear()
    assert (list(living), living.has(A)) == ([], False)
    assert machine.life().in_use == {}
    machine.devices.add("cali1")
    living = machine.life()
    living.add(record)
    living.remove(record.handle)
    assert list(machine.life()) == []
    assert living.in_use == {}


def test_another_container_of_the_same_pod_takes_the_records_place(machine: Machine) -> None:
    living = machine.life()
    old, new = (
        record_of_endpoint(endpoint(name, address=address), BOOT)
        for name, address in (("c1", "10.0.0.1"), ("c2", "10.0.0.2"))
    )
    living.add(old)
    living.add(new)
    living.remove(old.handle)  # its late DEL
    for one in (living, machine.life()):
        assert (list(one), one.in_use) == ([new], {B: new.handle})


def fifo(path: Path) -> None:
    os.mkfifo(path)


def link(path: Path) -> None:
    path.symlink_to("/dev/zero")


def text(content: bytes) -> Callable[[Path], None]:
    return lambda path: [path.write_bytes(content), None][1]


@pytest.mark.parametrize(
    "damage",
    [
        fifo,
        link,
        Path.mkdir,
        text(b""),
        text(b"{"),
        text(b"[" * 100_000),
        text(b'{"handle":"h","ips":["zz"],"attributes":[["boot","boot-1"]]}'),
        text(b'{"handle":"h\xff"}'),
    ],
)
def test_a_damaged_record_hides_no_other(machine: Machine, damage: Callable[[Path], None]) -> None:
    record = record_of_endpoint(endpoint(), BOOT)
    machine.life().add(record)
    damage(machine.state / "attachments" / "0.json")
    assert list(machine.life()) == [record]


def test_addresses_of_another_plugin_live_as_long_as_the_namespaces_path(
    machine: Machine, tmp_path: Path
) -> None:
    netns = tmp_path / "netns"
    netns.touch()
    words = (("boot", BOOT), ("netns", str(netns)))
    machine.life().add(Record(handle=HandleId("net.c1"), ips=("10.0.0.1",), attributes=words))
    assert machine.life().has(A)
    netns.unlink()
    living = machine.life()
    assert not living.has(A)


def test_a_record_that_cannot_be_written_is_a_trouble_and_holds_all_the_same(machine: Machine) -> None:
    living = machine.life()
    (machine.state / "attachments").write_text("in the way")
    assert list(machine.life()) == []
    record = record_of_endpoint(endpoint(), BOOT)
    living.add(record)
    (trouble,) = living.troubles()
    assert "1 attachments could not be written down" in str(trouble)
    assert living.has(A)
    (machine.state / "attachments").unlink()
    living.add(record)
    assert list(living.troubles()) == []


def test_attachments_of_an_older_version_are_recorded_by_their_endpoints(machine: Machine) -> None:
    living = machine.life()
    gone = endpoint(device="cali9", address="10.0.0.9")
    assert living.adopt((endpoint(), gone)) == 1
    assert living.adopt((endpoint(), gone)) == 0
    assert living.in_use == {A: "net.c1"}
