"""`tortie ipam` as a person runs it, against a real etcd: its tables, its exit codes, its files."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from ipam.etcd.client import EtcdStore
from ipam.etcd.etcd_config import EtcdConfig
from ipam.etcd.store import Delete
from ipam.keys import IPAM_CONFIG, block_key, handle_key, resource_key
from ipam.model import Address, HandleId
from tests.fixtures.etcd import Etcd, start_etcd
from tests.scenes.ipam.world import World, ask

POOL = {"cidr": "10.0.0.0/29", "blockSize": 30}
TABLE = """\
+----------+-------------+-----------+------------+--------------+----------+
| GROUPING |     CIDR    | IPS TOTAL | IPS IN USE | IPS RESERVED | IPS FREE |
+----------+-------------+-----------+------------+--------------+----------+
| IP Pool  | 10.0.0.0/29 | 8         | 2 (25%)    | 0 (0%)       | 6 (75%)  |
| Block    | 10.0.0.4/30 | 4         | 2 (50%)    | 0 (0%)       | 2 (50%)  |
+----------+-------------+-----------+------------+--------------+----------+
"""
ADDRESS = """\
IP 10.0.0.4 is in use
Handle: h1
Used by: endpoint default/n1-cni-w1-eth0
Block: 10.0.0.4/30 of n1
Attributes:
  node: n1
"""
RULES = """\
+--------------------+-------+
|      PROPERTY      | VALUE |
+--------------------+-------+
| StrictAffinity     | true  |
| AutoAllocateBlocks | true  |
| MaxBlocksPerHost   | 4     |
| IPCooldownSeconds  | 0     |
+--------------------+-------+
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Etcd]:
    with start_etcd() as running:
        yield running


@pytest.fixture
async def world(server: Etcd) -> AsyncIterator[World]:
    """n1 has 10.0.0.4, which an endpoint uses; n2 borrowed 10.0.0.5, which nobody uses."""
    store = EtcdStore(EtcdConfig((server.endpoint,)))
    made = World(store)
    await made.pool("p", "10.0.0.0/29", 30)
    await made.write(resource_key("ippools", "p"), _resource("IPPool", "p", POOL))
    stored = await store.get(resource_key("ippools", "p"))
    assert stored is not None
    made.pools = [type(made.pools[0])(made.pools[0].pool, stored.key, stored.revision)]
    endpoint = {
        "node": "n1",
        "orchestrator": "cni",
        "endpoint": "eth0",
        "interfaceName": "cali1",
        "ipNetworks": ["10.0.0.4/32"],
    }
    await made.write(
        resource_key("workloadendpoints", "n1-cni-w1-eth0", "default"),
        _resource("WorkloadEndpoint", "n1-cni-w1-eth0", endpoint),
    )
    await made.rules('{"auto_allocate_blocks":true}')
    await made.allocator().assign(ask("h1", "n1", exact=(_four(),)))
    await made.allocator().assign(ask("h2", "n2", exact=(_four(5),)))
    yield made
    await store.commit((), [Delete(key) for key in (await store.list("/calico/")).values])
    await store.close()


def _four(last: int = 4) -> Address:
    return ip_address(f"10.0.0.{last}")


def _resource(kind: str, name: str, spec: object) -> bytes:
    api = "projectcalico.org/v3"
    return json.dumps({"kind": kind, "apiVersion": api, "metadata": {"name": name}, "spec": spec}).encode()


async def tortie(server: Etcd, *words: str) -> tuple[int, str, str]:
    return await run(server, "ipam", *words)


async def run(server: Etcd, *words: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agent.cli.main", "--etcd-endpoints", server.endpoint, *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_tables_and_answers_are_those_of_calicoctl(server: Etcd, world: World) -> None:
    pools, borrowed, address, nobody, wrong = await asyncio.gather(
        tortie(server, "show", "--show-blocks"),
        tortie(server, "show", "--show-borrowed"),
        tortie(server, "show", "--ip", "10.0.0.4"),
        tortie(server, "show", "--ip", "10.0.0.7"),
        tortie(server, "show", "--ip", "10.0.0"),
    )
    assert pools == (0, TABLE, "")
    assert "| 10.0.0.5 | n2             | 10.0.0.4/30 | n1          | pod  |" in borrowed[1]
    assert address == (0, ADDRESS, "")
    assert nobody == (0, "10.0.0.7 is not assigned\n", "")
    assert wrong[0] == 1
    assert "tortie: --ip: '10.0.0' does not appear to be" in wrong[2]


async def test_a_pool_that_gives_nothing_or_to_some_namespaces_alone_is_told_beside_the_table(
    server: Etcd, world: World
) -> None:
    key, spec = resource_key("ippools", "p"), {**POOL, "namespaceSelector": "env == 'prod'"}
    await world.write(key, _resource("IPPool", "p", spec))
    nobody = await tortie(server, "show")
    for name, env in (("shop", "prod"), ("lab", "test"), ("web", "prod")):
        profile = _resource("Profile", f"kns.{name}", {"labelsToApply": {"pcns.env": env}})
        await world.write(resource_key("profiles", f"kns.{name}"), profile)
    some = await tortie(server, "show")
    raw = json.loads(_resource("IPPool", "p", POOL))
    raw["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    await world.write(key, json.dumps(raw).encode())
    going = await tortie(server, "show")
    assert (nobody[0], some[0], going[0]) == (0, 0, 0)
    assert "pool p: namespaceSelector env == 'prod': no namespace's labels are known" in nobody[2]
    assert "pool p: namespaceSelector env == 'prod': pods of 2 of 3 namespaces: shop, web" in some[2]
    assert "pool p is being deleted (deletionTimestamp 2026-01-01T00:00:00Z): no new address" in going[2]


async def test_what_is_shown_to_people_is_there_for_programs(server: Etcd, world: World) -> None:
    pools, borrowed, address, nobody, rules = await asyncio.gather(
        tortie(server, "show", "--show-blocks", "-o", "json"),
        tortie(server, "show", "--show-borrowed", "-o", "json"),
        tortie(server, "show", "--ip", "10.0.0.4", "-o", "json"),
        tortie(server, "show", "--ip", "10.0.0.7", "-o", "yaml"),
        tortie(server, "show", "--show-configuration", "-o", "yaml"),
    )
    counts = {"inUse": 2, "cooling": 0, "reserved": 0}
    assert json.loads(pools[1]) == [
        {"grouping": "IP Pool", "cidr": "10.0.0.0/29", "total": 8, **counts, "free": 6},
        {"grouping": "Block", "cidr": "10.0.0.4/30", "total": 4, **counts, "free": 2},
    ]
    assert json.loads(borrowed[1])[0] == {
        "ip": "10.0.0.5",
        "borrowingNode": "n2",
        "block": "10.0.0.4/30",
        "blockOwner": "n1",
        "type": "pod",
        "allocatedTo": "",
    }
    assert json.loads(address[1]) == {
        "ip": "10.0.0.4",
        "handle": "h1",
        "usedBy": "endpoint default/n1-cni-w1-eth0",
        "block": "10.0.0.4/30",
        "blockOwner": "n1",
        "attributes": {"node": "n1"},
    }
    assert nobody[1] == "ip: 10.0.0.7\n"
    assert "AutoAllocateBlocks: true\n" in rules[1]


async def test_check_finds_fixes_and_keeps_what_it_replaced(
    server: Etcd, world: World, tmp_path: Path
) -> None:
    await world.write(handle_key(HandleId("h9")), b'{"block":{"10.0.0.4/30":1}}')
    report, undo = tmp_path / "report.json", tmp_path / "undo.json"
    code, out, err = await tortie(server, "check", "-o", str(report), "--fix", "--undo-file", str(undo))
    assert code == 1
    assert "orphaned-handle: handle h9 holds nothing (repairable)" in out
    assert "leaked-address: address 10.0.0.5 is allocated to h2 (unknown) and not used: no endpoint" in out
    assert out.endswith("Check complete; found 2 problems.\n")
    assert err == "tortie: 1 problems remain\n"
    assert [item["kind"] for item in json.loads(report.read_text())["findings"]] == [
        "leaked-address",
        "orphaned-handle",
    ]
    (kept,) = json.loads(undo.read_text())["repairs"]
    assert kept["before"] == {handle_key(HandleId("h9")): '{"block":{"10.0.0.4/30":1}}'}
    released = await tortie(server, "release", "--ip", "10.0.0.5", "--ip", "10.0.0.6", "--handle", "h2")
    assert released[1] == "Successfully released IP address 10.0.0.5\nIP address 10.0.0.6 is not assigned\n"
    assert await tortie(server, "check") == (0, "Check complete; found 0 problems.\n", "")


async def test_what_calico_leaves_in_a_block_is_no_problem_and_goes_on_request(
    server: Etcd, world: World, tmp_path: Path
) -> None:
    await world.allocator().release_handle(HandleId("h2"))
    cidr = ip_network("10.0.0.4/30")
    stored = await world.store.get(block_key(cidr))
    assert stored is not None
    raw = json.loads(stored.value)
    raw["sequenceNumberForAllocation"]["2"] = 7
    await world.write(block_key(cidr), json.dumps(raw).encode())
    told = (
        "stale-entries: block 10.0.0.4/30 holds a sequence number of an ordinal that is not allocated: "
        "harmless, Calico leaves them behind (repairable)\n"
    )
    end = "Check complete; found 0 problems.\n"
    assert await tortie(server, "check") == (0, told + end, "")
    undo = tmp_path / "undo.json"
    code, out, err = await tortie(server, "check", "--fix", "--undo-file", str(undo))
    assert (code, err) == (0, "")
    assert out == f"{told}1 repaired; what stood there before is in {undo}\n{end}"
    assert await tortie(server, "check") == (0, end, "")


async def test_an_address_of_a_pod_is_not_called_leaked_when_its_pool_is_gone(
    server: Etcd, world: World
) -> None:
    await world.allocator().release_handle(HandleId("h2"))
    await world.store.commit((), [Delete(resource_key("ippools", "p"))])
    code, out, err = await tortie(server, "check")
    assert "leaked" not in out
    assert (code, err) == (1, "tortie: 1 problems remain\n")
    assert out.startswith("block-outside-pools: block 10.0.0.4/30 lies in no pool\n")


async def test_one_rule_is_changed_and_what_calico_left_out_stays_off(server: Etcd, world: World) -> None:
    await world.rules('{"strict_affinity":true}')
    code, out, _ = await tortie(server, "configure", "--max-blocks-per-host", "5")
    assert code == 0
    assert "| AutoAllocateBlocks | false |" in out
    stored = await world.store.get(IPAM_CONFIG)
    assert stored is not None
    assert json.loads(stored.value) == {"strict_affinity": True, "maxBlocksPerHost": 5}


async def test_the_rules_are_changed_only_into_rules_that_can_hold(server: Etcd, world: World) -> None:
    refused = await tortie(server, "configure", "--max-blocks-per-host", "4")
    assert refused == (
        1,
        "",
        "tortie: maxBlocksPerHost needs strictAffinity: else nodes at the limit would borrow\n",
    )
    done = await tortie(server, "configure", "--strictaffinity", "true", "--max-blocks-per-host", "4")
    assert done == (0, RULES, "")
    assert (await tortie(server, "show", "--show-configuration"))[1] == RULES


async def test_what_a_node_held_is_released_with_its_claims(server: Etcd, world: World) -> None:
    wrong, done = await tortie(server, "release"), await tortie(server, "release", "--node", "n1")
    assert (wrong[0], wrong[2]) == (1, "tortie: name either --ip ADDRESS or --node NODE\n")
    assert done == (0, "Successfully released IP address 10.0.0.4\n", "")
    block = await world.block("10.0.0.4/30")
    assert block is not None
    assert block.owner is None


async def test_deleting_a_pool_frees_its_empty_blocks_and_keeps_what_is_used(
    server: Etcd, world: World
) -> None:
    await world.allocator().release_handle(HandleId("h2"))
    await world.allocator().assign(ask("h3", "n3", exact=(_four(0),)))
    await world.allocator().release_handle(HandleId("h3"))
    before = await world.store.list("/calico/")
    refused = await run(server, "delete", "ippool", "p")
    assert (refused[0], "has addresses of it: delete them first" in refused[2]) == (1, True)
    assert (await run(server, "delete", "ippool", "p", "--dry-run", "--force"))[:2] == (
        0,
        "IPPool p deleted (dry run)\ndry run: nothing was written\n",
    )
    assert await world.store.list("/calico/") == before
    assert (await run(server, "delete", "ippool", "p", "--force"))[:2] == (
        0,
        "IPPool p deleted\nSuccessfully deleted 1 'IPPool' resource(s)\n",
    )
    assert await world.block("10.0.0.0/30") is None
    block = await world.block("10.0.0.4/30")
    assert block is not None
    assert block.owner is None
    assert list((await world.held()).values()) == ["h1"]
    assert await world.faults() == []
