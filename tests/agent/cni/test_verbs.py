"""CHECK finds every difference, STATUS distinguishes two troubles, GC frees exactly what is not listed."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from agent.datastore.state_cache import ENDPOINTS
from ipam.etcd.store import Delete, Put
from ipam.keys import block_prefix
from tests.fakes.pods import PodFault
from tests.scenes.cni.cni_world import World

NOTHING = (0, 0, 0)
HOST = "cali68caf03a5f4"


@pytest.fixture
async def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    await made.start()
    return made


async def added(world: World, **config: object) -> dict[str, Any]:
    status, result = await world.call("ADD", config=config)
    assert status == 0
    return result


# -- CHECK ------------------------------------------------------------------------------------------------------------


async def test_a_check_of_what_was_just_made_finds_nothing(world: World) -> None:
    result = await added(world)
    assert await world.call("CHECK", config={"prevResult": result}) == (0, {})


async def test_a_check_needs_the_result_and_a_version_that_has_it(world: World) -> None:
    status, error = await world.call("CHECK")
    assert (status, error["code"]) == (1, 7)
    assert error["msg"].startswith("prevResult: CHECK needs the result")
    _, error = await world.call("CHECK", config={"cniVersion": "0.3.1", "prevResult": {}})
    assert (error["code"], error["msg"]) == (1, "CHECK exists from cniVersion 0.4.0 on, not in 0.3.1")


DAMAGE: dict[str, tuple[dict[str, Any], str]] = {
    "no device in the pod": ({"interface": "eth9"}, "eth0 is not in the pod"),
    "another MAC": ({"mac": "02:00:00:00:00:99"}, "eth0 has MAC 02:00:00:00:00:99, not"),
    "another MTU": ({"mtu": 1300}, "eth0 has MTU 1300, not 1450"),
    "no address": ({"addresses": ()}, "eth0 does not have the address 192.168.0."),
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_check_names_what_is_not_as_it_was_made(world: World, damage: str) -> None:
    result = await added(world)
    change, words = DAMAGE[damage]
    ((name, attachment),) = world.pods.attached.items()
    world.pods.attached[name] = replace(attachment, **change)
    status, error = await world.call("CHECK", config={"prevResult": result})
    assert (status, error["code"]) == (1, 101)
    assert words in error["msg"]


async def test_a_check_compares_with_the_datastore_too(world: World) -> None:
    result = await added(world)
    (key,) = (await world.store.list(ENDPOINTS)).values
    await world.store.commit((), (Delete(key),))
    _, error = await world.call("CHECK", config={"prevResult": result})
    assert "the datastore has no endpoint for this container" in error["msg"]


async def test_a_check_waits_for_the_hosts_route_and_says_why_it_is_not_there(world: World) -> None:
    result = await added(world)
    world.unsettled = TimeoutError("not carried out within 3 s")
    _, error = await world.call("CHECK", config={"prevResult": result})
    assert "the host's route: not carried out within 3 s" in error["msg"]


# -- STATUS -----------------------------------------------------------------------------------------------------------


async def test_status_tells_what_only_new_pods_feel_from_what_all_feel(world: World) -> None:
    assert await world.call("STATUS") == (0, {})
    world.why = "the datastore is away"
    assert (await world.call("STATUS"))[1]["code"] == 50
    world.limited = "no BGP session is up"
    _, error = await world.call("STATUS")
    assert (error["code"], error["msg"]) == (
        51,
        "pods of this node may not reach others: no BGP session is up",
    )


async def test_status_and_gc_need_version_1_1_and_no_container(world: World) -> None:
    for verb in ("STATUS", "GC"):
        _, error = await world.call(verb, config={"cniVersion": "1.0.0"})
        assert error["code"] == 1
    bare = {"CNI_CONTAINERID": "", "CNI_IFNAME": "", "CNI_NETNS": ""}
    assert await world.call("STATUS", environment=bare) == (0, {})


# -- GC ---------------------------------------------------------------------------------------------------------------


def valid(*pairs: tuple[str, str]) -> dict[str, object]:
    return {
        "cni.dev/valid-attachments": [{"containerID": container, "ifname": name} for container, name in pairs]
    }


async def addresses(world: World) -> int:
    return (await world.stored())[2]


async def test_gc_frees_exactly_what_is_not_listed(world: World) -> None:
    for number in range(4):
        await world.call("ADD", f"c{number}", f"pod{number}")
    assert await world.call("GC", config=valid(("c1", "eth0"), ("c3", "eth0"))) == (0, {})
    left = {endpoint.spec.container_id for endpoint in world.cluster.endpoints}
    assert left == {"c1", "c3"} == {attachment.container_id for attachment in world.pods.attached.values()}
    assert await world.stored() == (2, 2, 2)


async def test_gc_with_an_empty_list_frees_the_whole_network_and_no_other(world: World) -> None:
    await world.call("ADD", "c1", "one")
    await world.call("ADD", "c2", "two", config={"name": "net.other"})
    await world.call("ADD", "other.c3", "three")
    assert await world.call("GC", config=valid()) == (0, {})
    assert {endpoint.spec.container_id for endpoint in world.cluster.endpoints} == {"c2"}
    assert await world.stored() == (1, 1, 1)


async def test_gc_frees_by_the_addresses_when_the_endpoint_is_lost(world: World) -> None:
    await world.call("ADD")
    (key,) = (await world.store.list(ENDPOINTS)).values
    await world.store.commit((), (Delete(key),))
    world.cluster.replace(ENDPOINTS, {})
    assert await world.call("GC", config=valid()) == (0, {})
    assert (await world.stored(), world.pods.attached) == (NOTHING, {})


async def test_gc_goes_on_after_a_failure_and_reports_it(world: World) -> None:
    for number in range(3):
        await world.call("ADD", f"c{number}", f"pod{number}")
    world.pods.faults.add(PodFault.DETACH_REFUSED)
    status, error = await world.call("GC", config=valid())
    assert (status, error["code"]) == (1, 5)
    assert error["msg"].startswith("1 could not be freed: c0 eth0: the kernel lets no veth go")
    assert await world.stored() == (1, 1, 1)


@pytest.mark.parametrize(
    "listed", [None, "c1", [{"containerID": "c1"}], ["c1"], [{"containerID": 1, "ifname": "a"}]]
)
async def test_gc_frees_nothing_by_a_list_that_it_cannot_read(world: World, listed: object) -> None:
    await world.call("ADD")
    config = {} if listed is None else {"cni.dev/valid-attachments": listed}
    _, error = await world.call("GC", config=config)
    assert error["code"] == 7
    assert await addresses(world) == 1


async def test_gc_leaves_the_addresses_of_other_nodes_alone(world: World) -> None:
    await world.call("ADD")
    (block,) = (await world.store.list(block_prefix(4))).values.values()
    moved = block.value.replace(b'"node":"node1"', b'"node":"node2"')
    assert moved != block.value
    (key,) = (await world.store.list(ENDPOINTS)).values
    await world.store.commit((), (Put(block.key, moved), Delete(key)))
    world.pods.attached.clear()
    world.cluster.replace(ENDPOINTS, {})
    assert await world.call("GC", config=valid()) == (0, {})
    assert await addresses(world) == 1


# -- options ----------------------------------------------------------------------------------------------------------


ADDRESS_SOURCES: dict[str, tuple[dict[str, object], str, str]] = {
    "a runtime's": ({"runtimeConfig": {"ips": ["192.168.0.9/32"]}}, "", "192.168.0.9"),
    "an argument's": ({"args": {"cni": {"ips": ["192.168.0.10"]}}}, "", "192.168.0.10"),
    "CNI_ARGS'": ({}, ";IP=192.168.0.11", "192.168.0.11"),
    "the runtime's before all": (
        {"runtimeConfig": {"ips": ["192.168.0.9"]}, "args": {"cni": {"ips": ["192.168.0.10"]}}},
        ";IP=192.168.0.11",
        "192.168.0.9",
    ),
}


@pytest.mark.parametrize("source", ADDRESS_SOURCES)
async def test_a_requested_address_is_given(world: World, source: str) -> None:
    config, words, expected = ADDRESS_SOURCES[source]
    environment = {"CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web{words}"}
    status, result = await world.call("ADD", config=config, environment=environment)
    assert (status, result["ips"][0]["address"]) == (0, f"{expected}/32")


async def test_a_requested_address_that_is_taken_is_refused_and_leaves_nothing(world: World) -> None:
    config: dict[str, object] = {"runtimeConfig": {"ips": ["192.168.0.9"]}}
    assert (await world.call("ADD", "c1", "one", config=config))[0] == 0
    status, error = await world.call("ADD", "c2", "two", config=config)
    assert (status, error["code"]) == (1, 100)
    assert await world.stored() == (1, 1, 1)


async def test_a_requested_mac_is_the_pods(world: World) -> None:
    result = await added(world, runtimeConfig={"mac": "0A-58-C0-A8-00-09"})
    assert result["interfaces"][1]["mac"] == "0a:58:c0:a8:00:09"
    (attachment,) = world.pods.attached.values()
    assert attachment.mac == "0a:58:c0:a8:00:09"


REFUSED: list[tuple[dict[str, object], int, str]] = [
    ({"runtimeConfig": {"ips": ["::1::"]}}, 7, "runtimeConfig.ips: '::1::' is not an IP address"),
    (
        {"runtimeConfig": {"ips": ["10.0.0.1", "10.0.0.2"]}},
        7,
        "runtimeConfig.ips: must be a list of at most one",
    ),
    (
        {"runtimeConfig": {"mac": "01:00:5e:00:00:01"}},
        7,
        "runtimeConfig.mac: '01:00:5e:00:00:01' is not the MAC",
    ),
    ({"runtimeConfig": []}, 7, "runtimeConfig: must be an object"),
    ({"ipam": {"assign_ipv4": False}}, 7, "ipam: assign_ipv4 and assign_ipv6 are both off"),
    ({"ipam": {"assign_ipv6": "true"}, "mtu": 1000}, 7, "mtu: 1000 must be a number from 1280"),
    ({"ipam": {"gateway": "fd00::1"}}, 7, "ipam.gateway: fd00::1 is not an IPv4 address"),
    ({"ipam": {"ipv6_pools": "six"}}, 7, "ipam.ipv6_pools: must be a list"),
    ({"ipam": {"assign_ipv4": "yes"}}, 7, 'ipam.assign_ipv4: must be "true" or "false"'),
    ({"ipam": "tortie-ipam"}, 7, "ipam: must be an object"),
    ({"mtu": True}, 7, "mtu: True must be a number"),
    (
        {"prevResult": {"ips": "none"}},
        7,
        "prevResult: must be an object whose interfaces, ips, routes are lists",
    ),
    (
        {"container_settings": {"allow_ip_forwarding": "yes"}},
        7,
        "container_settings.allow_ip_forwarding: must be",
    ),
]


@pytest.mark.parametrize(("config", "code", "words"), REFUSED)
async def test_an_option_that_cannot_be_met_is_refused_by_its_name_and_never_hinders_a_del(
    world: World, config: dict[str, object], code: int, words: str
) -> None:
    status, error = await world.call("ADD", config=config)
    assert (status, error["code"]) == (1, code)
    assert error["msg"].startswith(words)
    assert await world.call("DEL", config=config) == (0, {})
    assert await world.stored() == NOTHING


BOTH_FAMILIES: dict[str, object] = {"ipam": {"assign_ipv4": "true", "assign_ipv6": "true"}}
ONLY_SIX: dict[str, object] = {"ipam": {"assign_ipv4": "false", "assign_ipv6": "true"}}
FORMS: list[tuple[str, dict[str, object], list[tuple[str, str | None]]]] = [
    ("0.3.1", BOTH_FAMILIES, [("192.168.0.", "4"), ("fd00:10::", "6")]),
    ("0.4.0", BOTH_FAMILIES, [("192.168.0.", "4"), ("fd00:10::", "6")]),
    ("1.0.0", BOTH_FAMILIES, [("192.168.0.", None), ("fd00:10::", None)]),
    ("1.1.0", BOTH_FAMILIES, [("192.168.0.", None), ("fd00:10::", None)]),
    ("1.1.0", ONLY_SIX, [("fd00:10::", None)]),
]


@pytest.mark.parametrize(("version", "config", "expected"), FORMS)
async def test_a_pod_gets_the_families_that_are_asked_for_in_the_form_of_each_version(
    world: World, version: str, config: dict[str, object], expected: list[tuple[str, str | None]]
) -> None:
    result = await added(world, cniVersion=version, **config)
    for ip, (start, family) in zip(result["ips"], expected, strict=True):
        assert ip["address"].startswith(start)
        assert ip["address"].endswith("/128" if ":" in start else "/32")
        assert (ip.get("version"), ip["interface"]) == (family, 1)
    assert await world.stored() == (1, 1, len(expected))
    if version >= "0.4.0":
        again = {"cniVersion": version, "prevResult": result, **config}
        assert await world.call("CHECK", config=again) == (0, {})
        world.pods.sysctls["net/ipv4/conf/" + HOST + "/proxy_arp"] = "0"
        assert (await world.call("CHECK", config=again))[1]["code"] == 101
    assert await world.call("DEL", config=config) == (0, {})
    assert await world.stored() == NOTHING


async def test_the_oldest_form_has_one_address_of_each_family(world: World) -> None:
    result = await added(world, cniVersion="0.2.0", **BOTH_FAMILIES)
    assert result["ip4"]["ip"].startswith("192.168.0.")
    assert result["ip6"]["ip"].startswith("fd00:10::")


async def test_one_address_of_each_family_may_be_requested_and_the_other_family_is_assigned(
    world: World,
) -> None:
    result = await added(world, runtimeConfig={"ips": ["192.168.0.9/24", "fd00:10::9"]})
    assert [ip["address"] for ip in result["ips"]] == ["192.168.0.9/32", "fd00:10::9/128"]
    _, result = await world.call(
        "ADD", "c2", "two", config={**BOTH_FAMILIES, "runtimeConfig": {"ips": ["fd00:10::a"]}}
    )
    found = sorted(ip["address"] for ip in result["ips"])
    assert found[0].startswith("192.168.0.")
    assert found[1] == "fd00:10::a/128"
    assert await world.call("GC", config=valid()) == (0, {})
    assert await world.stored() == NOTHING


async def test_a_pod_of_both_families_gets_both_or_nothing(world: World) -> None:
    config = {**BOTH_FAMILIES, "runtimeConfig": {"ips": ["fd00:99::1"]}}
    status, error = await world.call("ADD", config=config)
    assert (status, error["code"]) == (1, 100)
    assert await world.stored() == NOTHING


async def test_two_interfaces_of_one_container_have_their_own_devices_and_addresses(world: World) -> None:
    _, first = await world.call("ADD")
    _, second = await world.call("ADD", environment={"CNI_IFNAME": "net1"})
    assert first["ips"] != second["ips"]
    assert len(world.pods.attached) == 2
    await world.call("DEL", environment={"CNI_IFNAME": "net1"})
    assert await world.stored() == (1, 1, 1)
    assert await world.call("ADD") == (0, first)
    assert await world.call("GC", config=valid()) == (0, {})
    assert await world.stored() == NOTHING


# -- chains -----------------------------------------------------------------------------------------------------------


async def test_what_came_before_is_kept_and_ours_is_added(world: World) -> None:
    before = {
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "dummy0", "sandbox": "/run/netns/x"}],
        "ips": [{"address": "10.9.0.1/24", "interface": 0}],
        "routes": [{"dst": "10.9.0.0/16"}],
    }
    result = await added(world, prevResult=before)
    assert [item["name"] for item in result["interfaces"]] == ["dummy0", HOST, "eth0"]
    assert [ip["interface"] for ip in result["ips"]] == [0, 2]
    assert result["routes"] == before["routes"]
    assert await world.call("CHECK", config={"prevResult": result}) == (0, {})


DELEGATED: dict[str, object] = {
    "type": "bridge",
    "ipam": {
        "type": "tortie-ipam",
        "length": 24,
        "gateway": "192.168.0.254",
        "routes": [{"dst": "0.0.0.0/0"}],
    },
}


async def test_another_plugin_gets_addresses_of_both_families(world: World) -> None:
    ipam = {"type": "tortie-ipam", "assign_ipv6": True, "length6": 64, "gateway6": "fd00:10::fe"}
    status, result = await world.call("ADD", config={"type": "bridge", "ipam": ipam})
    assert status == 0
    four, six = result["ips"]
    assert (four["address"].rpartition("/")[2], six["address"].rpartition("/")[2]) == ("32", "64")
    assert (four.get("gateway"), six["gateway"]) == (None, "fd00:10::fe")


async def test_another_plugin_gets_addresses_and_nothing_else(world: World) -> None:
    status, result = await world.call("ADD", config=DELEGATED)
    assert status == 0
    (ip,) = result["ips"]
    assert (ip["address"].rpartition("/")[2], ip["gateway"]) == ("24", "192.168.0.254")
    assert result["routes"] == [{"dst": "0.0.0.0/0"}]
    assert "interfaces" not in result
    assert (await world.stored(), world.pods.attached) == ((1, 0, 1), {})
    assert await world.call("ADD", config=DELEGATED) == (0, result)
    assert await world.call("CHECK", config={**DELEGATED, "prevResult": result}) == (0, {})
    result["ips"][0]["address"] = str(IPv4Address(int(IPv4Address(ip["address"][:-3])) + 1))
    assert (await world.call("CHECK", config={**DELEGATED, "prevResult": result}))[1]["code"] == 101
    assert await world.call("DEL", config=DELEGATED) == (0, {})
    assert await world.stored() == NOTHING


async def test_gc_of_another_plugins_network_frees_its_addresses(world: World) -> None:
    await world.call("ADD", "c1", config=DELEGATED)
    await world.call("ADD", "c2", config=DELEGATED)
    assert await world.call("GC", config={**DELEGATED, **valid(("c2", "eth0"))}) == (0, {})
    assert await world.stored() == (1, 0, 1)


async def test_status_asks_the_datastore_itself_for_its_loss_is_noticed_late(world: World) -> None:
    world.store.away = True
    _, error = await world.call("STATUS")
    assert error["code"] == 50
    assert error["msg"].startswith("this node cannot attach pods now: the datastore is away: ")
