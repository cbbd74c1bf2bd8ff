"""A pool that would take others' addresses is refused, and deleting one whose addresses pods have; not by force."""

from __future__ import annotations

import json
from ipaddress import ip_network
from typing import Any

import pytest

from agent.clock import SystemClock
from agent.datastore.resources.documents import InvalidDocument, ParsedResource, read
from agent.datastore.resources.schema import merged
from agent.datastore.writing.resource_writer import Effect, ResourceWriter, WriteMode
from ipam import block as blocks
from ipam.allocation.sticky import KEPT_UNTIL
from ipam.codec import encode_block
from ipam.etcd.dry_run_store import DryRunStore
from ipam.etcd.store import Put
from ipam.keys import block_key, resource_key
from ipam.model import Attributes, HandleId, NodeName
from tests.fakes.store import FakeStore
from tests.scenes.datastore.damages import document


def parsed(kind: str, name: str, spec: dict[str, Any], **metadata: Any) -> ParsedResource:
    return read(json.dumps({"kind": kind, "metadata": {"name": name, **metadata}, "spec": spec}), "f")[0]


def pool(cidr: str, **spec: Any) -> ParsedResource:
    return parsed("IPPool", "new", {"cidr": cidr, **spec})


class Cluster:
    """Nodes, ranges of services, a pool and pods, on a fake store."""

    def __init__(self) -> None:
        self.store = FakeStore()
        self.writer = ResourceWriter(self.store, SystemClock())

    async def put(self, kind: str, name: str, spec: dict[str, Any], namespace: str | None = None) -> None:
        plural = f"{kind.lower()}s"
        value = document(kind, name, spec, namespace)
        await self.store.commit((), [Put(resource_key(plural, name, namespace), value)])

    async def pod(self, name: str, *addresses: str, node: str = "n1") -> None:
        spec = {
            "node": node,
            "orchestrator": "k8s",
            "pod": name,
            "endpoint": "eth0",
            "interfaceName": "cali1",
            "ipNetworks": [f"{address}/{128 if ':' in address else 32}" for address in addresses],
        }
        await self.put("WorkloadEndpoint", f"{node}-k8s-{name}-eth0", spec, "default")


@pytest.fixture
async def cluster() -> Cluster:
    found = Cluster()
    for name, address4, address6 in (
        ("n1", "172.26.0.11/20", "fd26::b/64"),
        ("n2", "172.26.0.12/20", "fd26::c/64"),
        ("n3", "10.128.0.3/32", ""),
    ):
        bgp = {"ipv4Address": address4} | ({"ipv6Address": address6} if address6 else {})
        await found.put("Node", name, {"bgp": bgp})
    ranges = {
        "serviceClusterIPs": [{"cidr": "10.96.0.0/12"}],
        "serviceExternalIPs": [{"cidr": "203.0.113.0/24"}],
        "serviceLoadBalancerIPs": [{"cidr": "198.51.100.0/24"}],
    }
    await found.put("BGPConfiguration", "default", ranges)
    return found


CONFLICTS = [
    ("172.26.8.0/24", {}, "172.26.8.0/24 overlaps 172.26.0.0/20, the network of 2 nodes (n1, n2)"),
    ("172.16.0.0/12", {}, "172.16.0.0/12 overlaps 172.26.0.0/20, the network of 2 nodes (n1, n2)"),
    ("10.128.0.0/16", {}, "10.128.0.0/16 overlaps 10.128.0.3/32, the network of node n3"),
    ("fd26::1:0:0:0/80", {}, "fd26::1:0:0:0/80 overlaps fd26::/64, the network of 2 nodes (n1, n2)"),
    (
        "10.100.0.0/16",
        {},
        "10.100.0.0/16 overlaps 10.96.0.0/12, a range of services (serviceClusterIPs of BGPConfiguration default)",
    ),
    (
        "198.51.100.0/25",
        {},
        "198.51.100.0/25 overlaps 198.51.100.0/24, a range of services "
        "(serviceLoadBalancerIPs of BGPConfiguration default)",
    ),
    (
        "203.0.113.0/25",
        {"allowedUses": ["LoadBalancer"]},
        "203.0.113.0/25 overlaps 203.0.113.0/24, a range of services (serviceExternalIPs of BGPConfiguration default)",
    ),
]


@pytest.mark.parametrize(("cidr", "spec", "sentence"), CONFLICTS, ids=[case[0] for case in CONFLICTS])
async def test_a_pool_over_a_nodes_network_or_a_range_of_services_is_made_by_force_alone(
    cluster: Cluster, cidr: str, spec: dict[str, Any], sentence: str
) -> None:
    said = f"f: line 1: IPPool new: spec.cidr: {sentence}"
    for mode in (WriteMode.CREATE, WriteMode.APPLY):
        with pytest.raises(InvalidDocument) as caught:
            await cluster.writer.write(pool(cidr, **spec), mode)
        assert caught.value.sentences == [f"{said}; choose another range, or insist with --force"]
    made = await cluster.writer.write(pool(cidr, **spec), WriteMode.CREATE, force=True)
    assert (made.effect, made.warnings) == (Effect.CREATED, (said,))
    # what is there may be changed: its range is none of the change
    changed = await cluster.writer.write(pool(cidr, natOutgoing=True, **spec), WriteMode.APPLY)
    assert (changed.effect, changed.warnings) == (Effect.CONFIGURED, ())


async def test_a_pool_apart_from_all_is_made_without_a_word(cluster: Cluster) -> None:
    for cidr, spec in (
        ("192.168.0.0/16", {}),
        ("fd10::/48", {}),
        ("198.51.100.0/24", {"allowedUses": ["LoadBalancer"]}),
    ):
        made = await DryWriter(cluster).write(pool(cidr, **spec), WriteMode.CREATE)
        assert (made.effect, made.warnings) == (Effect.CREATED, ())


class DryWriter(ResourceWriter):
    """Writes nothing."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(DryRunStore(cluster.store), SystemClock())


async def test_force_takes_no_pool_over_another_and_nothing_that_calico_refuses(cluster: Cluster) -> None:
    await cluster.put("IPPool", "first", {"cidr": "192.168.0.0/16"})
    with pytest.raises(InvalidDocument, match=r"spec\.cidr: 192\.168\.4\.0/24 overlaps pool first"):
        await cluster.writer.write(pool("192.168.4.0/24"), WriteMode.CREATE, force=True)
    with pytest.raises(InvalidDocument, match=r"metadata\.name: 'New' must be a DNS name"):
        await cluster.writer.write(
            parsed("IPPool", "New", {"cidr": "10.1.0.0/16"}), WriteMode.CREATE, force=True
        )


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"cidr": "10.2.0.0/16"}, "spec.cidr: 10.1.0.0/16 cannot be changed to 10.2.0.0/16"),
        ({"cidr": "10.1.0.0/16", "blockSize": 27}, "spec.blockSize: 26 cannot be changed to 27"),
        ({"cidr": "10.1.0.0/16", "blockSize": 19}, "spec.blockSize: 19 is outside 20 to 32 for IPv4"),
        ({"cidr": "10.1.0.0/28"}, "spec.blockSize: a block of /26 does not fit into 10.1.0.0/28"),
        ({"cidr": "fd10::/64", "blockSize": 115}, "spec.blockSize: 115 is outside 116 to 128 for IPv6"),
    ],
)
async def test_range_and_size_of_blocks_have_limits_and_are_for_life(
    cluster: Cluster, spec: dict[str, Any], sentence: str
) -> None:
    await cluster.put("IPPool", "new", {"cidr": "10.1.0.0/16"})
    with pytest.raises(InvalidDocument) as caught:
        await cluster.writer.write(parsed("IPPool", "new", spec), WriteMode.APPLY)
    assert sentence in str(caught.value)


async def test_a_pool_for_load_balancers_stays_one(cluster: Cluster) -> None:
    await cluster.put("IPPool", "new", {"cidr": "10.1.0.0/16", "allowedUses": ["LoadBalancer"]})
    with pytest.raises(InvalidDocument, match=r"spec\.allowedUses: LoadBalancer cannot be changed"):
        await cluster.writer.write(pool("10.1.0.0/16", allowedUses=["Workload"]), WriteMode.APPLY)


async def test_a_name_that_calico_refuses_can_be_changed_where_it_is_stored_and_nowhere_be_made(
    cluster: Cluster,
) -> None:
    await cluster.put("Node", "Big_Node", {"bgp": {"asNumber": 1}})
    patch = {"spec": {"bgp": {"asNumber": "1.10"}}}
    done = await cluster.writer.edit("Node", "Big_Node", lambda raw: merged(raw, patch), "-p")
    assert done.changed == ("spec.bgp.asNumber: 1 -> 65546",)
    bad = {"spec": {"addresses": [{"address": "10.0.0.1", "type": "Inside"}]}}
    with pytest.raises(
        InvalidDocument, match=r"-p: Node Big_Node: spec\.addresses\[0\]\.type: 'Inside' is none of"
    ):
        await cluster.writer.edit("Node", "Big_Node", lambda raw: merged(raw, bad), "-p")
    with pytest.raises(InvalidDocument, match=r"metadata\.name: 'Other_Node' must be a DNS name"):
        await cluster.writer.write(parsed("Node", "Other_Node", {}), WriteMode.APPLY)


async def test_a_range_of_services_over_a_pool_is_written_with_a_warning(cluster: Cluster) -> None:
    await cluster.put("IPPool", "p", {"cidr": "10.1.0.0/16"})
    await cluster.put("IPPool", "balanced", {"cidr": "198.51.100.0/24", "allowedUses": ["LoadBalancer"]})
    spec = {
        "serviceClusterIPs": [{"cidr": "10.0.0.0/12"}],
        "serviceLoadBalancerIPs": [{"cidr": "198.51.100.0/25"}],
    }
    made = await cluster.writer.write(parsed("BGPConfiguration", "default", spec), WriteMode.APPLY)
    assert made.effect is Effect.CONFIGURED
    assert made.warnings == (
        "f: line 1: BGPConfiguration default: spec.serviceClusterIPs: 10.0.0.0/12 overlaps pool p (10.1.0.0/16)",
    )


async def test_a_namespace_selector_without_uses_is_taken_with_a_word_about_calico(cluster: Cluster) -> None:
    made = await cluster.writer.write(pool("10.1.0.0/16", namespaceSelector="has(x)"), WriteMode.CREATE)
    (warning,) = made.warnings
    assert "spec.namespaceSelector: calicoctl takes it of a pool without tunnel addresses alone" in warning


async def test_a_pool_whose_addresses_pods_have_is_deleted_by_force_alone_and_they_are_counted(
    cluster: Cluster,
) -> None:
    await cluster.put("IPPool", "p", {"cidr": "10.1.0.0/16"})
    await cluster.put("IPPool", "other", {"cidr": "10.2.0.0/16"})
    await cluster.pod("one", "10.1.0.1", "fd10::1")
    said = "IPPool p: pod default/one has addresses of it: delete them first, or insist with --force"
    with pytest.raises(InvalidDocument, match=said):
        await cluster.writer.delete_named("IPPool", "p")
    for number in range(2, 6):
        await cluster.pod(f"p{number}", f"10.1.0.{number}", node="n2")
    await cluster.pod("elsewhere", "10.2.0.1")
    with pytest.raises(
        InvalidDocument, match=r"IPPool p: 5 pods \(default/one, default/p2, default/p3 …\) have"
    ):
        await cluster.writer.delete_named("IPPool", "p")
    stored = await cluster.writer.get("IPPool", "p")
    assert stored.spec == parsed("IPPool", "p", {"cidr": "10.1.0.0/16"}).resource.spec  # not disabled either
    gone = await cluster.writer.delete_named("IPPool", "p", force=True)
    assert gone.effect is Effect.DELETED
    (warning,) = gone.warnings
    assert "5 pods (default/one, default/p2, default/p3 …) have addresses of it: they keep" in warning


async def test_a_pool_that_nobody_uses_is_deleted_without_a_word(cluster: Cluster) -> None:
    await cluster.put("IPPool", "p", {"cidr": "10.1.0.0/16"})
    await cluster.pod("elsewhere", "10.2.0.1", "fd10::1")
    gone = await cluster.writer.delete_named("IPPool", "p")
    assert (gone.effect, gone.warnings) == (Effect.DELETED, ())


async def test_an_endpoint_that_cannot_be_read_may_have_an_address_of_any_pool(cluster: Cluster) -> None:
    await cluster.put("IPPool", "p", {"cidr": "10.1.0.0/16"})
    await cluster.store.commit((), [Put(resource_key("workloadendpoints", "n1-k8s-x-eth0", "default"), b"{")])
    with pytest.raises(InvalidDocument, match="value n1-k8s-x-eth0 cannot be read, and may say"):
        await cluster.writer.delete_named("IPPool", "p")


async def test_addresses_without_an_endpoint_count_as_well_and_those_of_tunnels_and_kept_ones_do_not(
    cluster: Cluster,
) -> None:
    await cluster.put("IPPool", "p", {"cidr": "10.1.0.0/16"})
    await cluster.pod("one", "10.1.0.1")
    cidr = ip_network("10.1.0.0/26")
    block = blocks.new_block(cidr, NodeName("n1"), "2026-01-01T00:00:00Z", 5)
    for words in (
        {"pod": "ours"},
        {"type": "vxlanTunnelAddress"},
        {"pod": "ours", KEPT_UNTIL: "2027-01-01T00:00:00Z"},
    ):
        block, _ = blocks.assign(block, 1, Attributes(HandleId("h"), tuple(words.items())))
    await cluster.store.commit((), [Put(block_key(cidr), encode_block(block))])
    said = "pod default/one has addresses of it and address 10.1.0.0 is allocated without an endpoint"
    with pytest.raises(InvalidDocument, match=said):
        await cluster.writer.delete_named("IPPool", "p")
    await cluster.store.commit((), [Put(block_key(cidr), b"{")])
    with pytest.raises(
        InvalidDocument, match=r"value 10\.1\.0\.0-26 cannot be read, and may say that some are in use"
    ):
        await cluster.writer.delete_named("IPPool", "p")
    await cluster.put("IPPool", "other", {"cidr": "10.2.0.0/16"})
    assert (await cluster.writer.delete_named("IPPool", "other")).effect is Effect.DELETED


async def test_a_pool_that_cannot_be_read_can_be_deleted(cluster: Cluster) -> None:
    await cluster.pod("one", "10.1.0.1")
    await cluster.store.commit((), [Put(resource_key("ippools", "bad"), b"{")])
    assert (await cluster.writer.delete_named("IPPool", "bad")).effect is Effect.DELETED
