"""What may be believed of a datastore that does not know what this machine knows."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from agent.datastore.recovery import Loss, foreign, is_deliberate
from agent.datastore.resources.resource_types import Metadata, WorkloadEndpoint, WorkloadEndpointSpec
from ipam.model import Pool, PoolRecord

INSIDE, ELSEWHERE = (
    PoolRecord(Pool(name, ip_network(cidr), 26), f"/pools/{name}", 1)
    for name, cidr in (("inside", "10.0.0.0/16"), ("elsewhere", "10.9.0.0/16"))
)
ONE, TWO = (
    WorkloadEndpoint(
        metadata=Metadata(name=name),
        spec=WorkloadEndpointSpec(
            node="n", orchestrator="k8s", endpoint="eth0", interface_name=f"cali{name}", ip_networks=[address]
        ),
    )
    for name, address in (("1", "10.0.0.1/32"), ("2", "10.0.0.2/32"))
)


@pytest.mark.parametrize(
    ("living", "lost", "pools", "missing", "is_foreign"),
    [
        pytest.param((), (), (), (), False, id="new node, nothing configured"),
        pytest.param((ONE,), (), (INSIDE,), (), False, id="all known"),
        pytest.param((ONE, TWO), ("1", "2"), (INSIDE,), (), False, id="a backup older than the pods"),
        pytest.param((ONE, TWO), ("1",), (), (), False, id="one pod known, the pool deleted on purpose"),
        pytest.param((ONE, TWO), ("1", "2"), (), (), True, id="empty, at a start"),
        pytest.param((ONE, TWO), ("1", "2"), (INSIDE,), ("inside",), True, id="empty, while running"),
        pytest.param((ONE,), ("1",), (ELSEWHERE,), (), True, id="another cluster, at a start"),
        pytest.param((ONE,), ("1",), (INSIDE, ELSEWHERE), ("inside",), True, id="another cluster"),
        pytest.param((), (), (INSIDE,), ("inside",), True, id="empty, a node without pods"),
        pytest.param((), (), (INSIDE, ELSEWHERE), ("inside",), False, id="one pool newer than the backup"),
    ],
)
def test_an_empty_or_another_clusters_datastore_is_told_from_an_older_one(
    living: tuple[WorkloadEndpoint, ...],
    lost: tuple[str, ...],
    pools: tuple[PoolRecord, ...],
    missing: tuple[str, ...],
    *,
    is_foreign: bool,
) -> None:
    unknown = [one for one in living if one.metadata.name in lost]
    why = foreign(len(living), unknown, pools, {f"/pools/{name}" for name in missing})
    assert (why is not None) is is_foreign


@pytest.mark.parametrize(
    ("loss", "others", "allocated", "deliberate"),
    [
        pytest.param(Loss(0), (), True, False, id="a listing lacked it"),
        pytest.param(Loss(0, 9), (), True, True, id="one endpoint deleted, its address left"),
        pytest.param(Loss(0, 9), (Loss(0, 7), Loss(0)), True, True, id="another one earlier"),
        pytest.param(Loss(0, 9), (Loss(0, 9),), True, False, id="a range of endpoints at one revision"),
        pytest.param(Loss(0, 9), (), False, False, id="its address went as well, without a DEL"),
    ],
)
def test_a_deletion_on_purpose_is_that_of_one_endpoint_alone(
    loss: Loss, others: tuple[Loss, ...], *, allocated: bool, deliberate: bool
) -> None:
    assert is_deliberate(loss, (loss, *others), allocated=allocated) is deliberate
