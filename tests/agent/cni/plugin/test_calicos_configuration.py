"""A configuration of Calico's is followed, refused by name, or told: never passed over in silence."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from agent.cli.main import main
from agent.cni.plugin import spec
from agent.cni.plugin.ignored_keys import DONE_ANYWAY, UNKNOWN, WHY, ignored_keys
from agent.cni.plugin.network_check import Level, check_networks
from agent.cni.plugin.options import CniError
from agent.cni.plugin.plugin_install import conflist
from tests.scenes.cni.cni_world import World

CALICO: dict[str, Any] = {
    "name": "k8s-pod-network",
    "cniVersion": "0.3.1",
    "type": "calico",
    "log_level": "info",
    "log_file_path": "/var/log/calico/cni/cni.log",
    "datastore_type": "kubernetes",
    "nodename": "node1",
    "nodename_file_optional": False,
    "mtu": 0,
    "ipam": {"type": "calico-ipam", "assign_ipv4": "true", "assign_ipv6": "false"},
    "policy": {"type": "k8s"},
    "kubernetes": {"kubeconfig": "/etc/cni/net.d/calico-kubeconfig"},
    "container_settings": {"allow_ip_forwarding": False},
    "feature_control": {"ip_addrs_no_ipam": False, "floating_ips": False},
}
"""As its installer writes it."""
HOST_LOCAL: dict[str, Any] = {
    "cniVersion": "0.3.1",
    "name": "k8s-pod-network",
    "type": "calico",
    "mtu": 0,
    "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.6.0/24"}]]},
}
CAPABILITY = "io.kubernetes.cri.pod-annotations"
NOTHING = (0, 0, 0)


@pytest.fixture
async def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    await made.start()
    return made


def told(config: dict[str, Any]) -> dict[str, str]:
    return {one.key: one.why for one in ignored_keys(config)}


# -- ipam.type --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["host-local", "azure-vnet-ipam", "dhcp", "static", 5, ["tortie-ipam"], {"a": 1}]
)
async def test_an_ipam_that_is_not_ours_is_refused_by_name_and_never_hinders_a_del(
    world: World, kind: object
) -> None:
    config = {**HOST_LOCAL, "cniVersion": "1.1.0", "ipam": {**HOST_LOCAL["ipam"], "type": kind}}
    for verb in ("ADD", "CHECK", "STATUS"):
        status, error = await world.call(verb, config={**config, "prevResult": {}})
        assert (status, error["code"]) == (1, 7), verb
        assert error["msg"].startswith(f"ipam.type: {kind!r} is not called: addresses come from the IPPools")
    assert await world.call("DEL", config=config) == (0, {})
    assert await world.stored() == NOTHING


@pytest.mark.parametrize("kind", ["calico-ipam", "tortie-ipam", "", None])
async def test_calicos_own_ipam_and_none_mean_the_clusters_pools(world: World, kind: str | None) -> None:
    config = {"type": "calico", "ipam": {"type": kind}}
    status, result = await world.call("ADD", config=config)
    assert (status, len(world.pods.attached)) == (0, 1)
    assert result["ips"][0]["address"].startswith("192.168.0.")


async def test_another_plugin_may_name_our_ipam_as_calicos(world: World) -> None:
    status, result = await world.call("ADD", config={"type": "bridge", "ipam": {"type": "calico-ipam"}})
    assert (status, "interfaces" in result, world.pods.attached) == (0, False, {})


async def test_status_says_what_every_add_would_be_refused_for(world: World) -> None:
    status, error = await world.call("STATUS", config={"mtu": 5})
    assert (status, error["code"], error["msg"]) == (1, 7, "mtu: 5 must be a number from 68 to 65535")


# -- cniVersion -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stdin", ['"cniVersion":"",', '"cniVersion":null,', ""])
async def test_an_empty_version_is_the_first_one_as_for_libcni(world: World, stdin: str) -> None:
    config = f'{{{stdin}"name":"old-network","type":"tortie"}}'.encode()
    environment = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/run/netns/x",
        "CNI_IFNAME": "eth0",
    }
    status, output = await world.server.call(environment, config)
    result = json.loads(output)
    assert (status, result["cniVersion"]) == (0, "0.1.0")
    assert result["ip4"]["ip"].startswith("192.168.0.")
    status, output = await world.server.call({**environment, "CNI_COMMAND": "CHECK"}, config)
    assert (status, json.loads(output)["code"]) == (1, 1)
    assert (await world.server.call({**environment, "CNI_COMMAND": "DEL"}, config))[0] == 0
    assert spec.version_of(config) == "0.1.0"


@pytest.mark.parametrize("version", [0, False, [], {}, "0.0.9", " "])
def test_a_version_that_is_none_is_refused(version: object) -> None:
    stdin = json.dumps({"cniVersion": version, "name": "net", "type": "tortie"}).encode()
    with pytest.raises(CniError) as caught:
        spec.parse(
            {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_NETNS": "/x", "CNI_IFNAME": "eth0"}, stdin
        )
    assert caught.value.code.value == 1


# -- keys that are not followed ---------------------------------------------------------------------------------------


def test_what_calicos_installer_writes_is_followed_or_told() -> None:
    assert told(CALICO).keys() == {
        "log_level",
        "log_file_path",
        "datastore_type",
        "nodename",
        "policy",
        "kubernetes",
    }
    assert UNKNOWN not in told(CALICO).values()


@pytest.mark.parametrize("key", sorted(key for key in WHY if not key.startswith("runtimeConfig.")))
def test_each_key_of_calicos_is_told_with_its_reason(key: str) -> None:
    within, _, name = key.rpartition(".")
    for value in ("x", {"a": "x"}):
        asked = {within: {name: value}} if within else {name: value}
        assert told({"type": "calico", **asked}) == {key: WHY[key]}


@pytest.mark.parametrize("value", [None, "", 0, False, [], {}, {"a": False}])
def test_a_key_that_asks_for_nothing_is_not_told(value: object) -> None:
    assert told({"type": "calico", **dict.fromkeys(WHY, value)}) == {}


def test_a_key_that_asks_for_what_is_so_anyway_is_not_told() -> None:
    for key, values in DONE_ANYWAY.items():
        assert [told({"type": "calico", key: value}) for value in values] == [{}] * len(values)


def test_what_nobody_knows_is_told_too_and_bounded() -> None:
    assert told({"type": "tortie", "mtuu": 1400, "ipam": {"ipv4pools": ["p"]}}) == {
        "mtuu": UNKNOWN,
        "ipam.ipv4pools": UNKNOWN,
    }
    assert len(told({"type": "tortie", **{f"key{number}": 1 for number in range(1000)}})) == 64
    (long,) = told({"type": "tortie", "\n" * 1000: 1})
    assert (long.isprintable(), len(long)) == (True, 65)


def test_what_another_plugin_has_for_itself_is_its_own_business() -> None:
    bridge = {"type": "bridge", "bridge": "br0", "isGateway": True, "dns": {"domain": "x"}}
    ipam = {"type": "tortie-ipam", "length": 24, "gateway": "10.0.0.1", "subnet": "usePodCidr"}
    assert told({**bridge, "ipam": ipam}) == {"ipam.subnet": WHY["ipam.subnet"]}


async def test_each_key_is_logged_once_and_no_value_of_it(world: World) -> None:
    secret = {"k8s_auth_token": "s3cret"}
    with capture_logs() as logs:
        for container in ("c1", "c2"):
            assert (await world.call("ADD", container, container, config={**CALICO, "policy": secret}))[
                0
            ] == 0
    ignored = [one for one in logs if one["event"] == "cni.key_ignored"]
    assert sorted(one["key"] for one in ignored) == sorted(told(CALICO))
    assert {one["network"] for one in ignored} == {"k8s-pod-network"}
    assert "s3cret" not in str(logs)


# -- annotations ------------------------------------------------------------------------------------------------------


def annotated(**annotations: object) -> dict[str, object]:
    named = {f"cni.projectcalico.org/{name}": value for name, value in annotations.items()}
    return {"runtimeConfig": {CAPABILITY: {"kubernetes.io/config.seen": "x", **named}}}


async def test_a_pods_annotations_are_followed_where_the_runtime_hands_them_over(world: World) -> None:
    config = annotated(ipAddrs='["192.168.0.9"]', hwAddr="0A:58:00:00:00:09", ipv4pools='["p"]')
    status, result = await world.call("ADD", config={**config, "ipam": {"ipv4_pools": ["nobodys"]}})
    assert (status, result["ips"][0]["address"]) == (0, "192.168.0.9/32")
    assert result["interfaces"][1]["mac"] == "0a:58:00:00:00:09"
    _, result = await world.call("ADD", "c2", "two", config=annotated(ipFamilies='["IPv6"]'))
    assert [ip["address"].partition(":")[0] for ip in result["ips"]] == ["fd00"]


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        ({"ipAddrsNoIpam": '["10.9.9.9"]'}, "ipAddrsNoIpam: no address is given that IPAM does not assign"),
        ({"floatingIPs": '["10.9.9.9"]'}, "floatingIPs: no address is given that IPAM does not assign"),
        ({"ipAddrs": "192.168.0.9"}, "ipAddrs: must be a list of texts in JSON"),
        ({"ipAddrs": "[5]"}, "ipAddrs: must be a list of texts in JSON"),
        ({"ipAddrs": 5}, "ipAddrs: must be a text of up to 4096 characters"),
        ({"ipv4pools": '["\\n"]'}, "ipv4pools: must be a list of up to 64 pool names"),
        ({"ipFamilies": '["IPv5"]'}, 'ipFamilies: must be a list of "IPv4" and "IPv6"'),
        ({"hwAddr": "x"}, "hwAddr: 'x' is not the MAC address of one interface"),
    ],
)
async def test_an_annotation_that_cannot_be_met_is_refused_by_its_name(
    world: World, annotation: dict[str, object], words: str
) -> None:
    status, error = await world.call("ADD", config=annotated(**annotation))
    assert (status, error["code"]) == (1, 7)
    assert error["msg"].startswith(f"annotation cni.projectcalico.org/{words}")
    assert await world.call("DEL", config=annotated(**annotation)) == (0, {})


@pytest.mark.parametrize("empty", ["", "[]", None])
async def test_an_empty_annotation_asks_for_nothing(world: World, empty: object) -> None:
    assert (await world.call("ADD", config=annotated(ipAddrsNoIpam=empty, ipAddrs=empty)))[0] == 0


# -- tortie cni check -------------------------------------------------------------------------------------------------


def checked(*files: tuple[str, object]) -> list[tuple[str, str, str]]:
    named = [(name, text if isinstance(text, bytes) else json.dumps(text).encode()) for name, text in files]
    return [(one.level.name, one.where, one.what) for one in check_networks(named)]


def test_our_own_configuration_is_followed_whole() -> None:
    assert checked(("10-tortie.conflist", conflist("net", portmap=True))) == []


def test_a_check_names_what_is_refused_and_what_is_not_followed() -> None:
    plugins = [
        {"type": "calico", "log_level": "info", "capabilities": {"bandwidth": True, "mac": True}},
        {"type": "portmap", "snat": True},
    ]
    conflist = {"name": "net", "cniVersion": "0.3.1", "plugins": plugins}
    found = checked(("10-calico.conflist", conflist), ("20-single.conf", HOST_LOCAL))
    assert [(level, where) for level, where, _ in found] == [
        ("NOTE", "10-calico.conflist, calico"),
        ("NOTE", "10-calico.conflist, calico"),
        ("ERROR", "20-single.conf, calico"),
    ]
    assert found[0][2].startswith("log_level is not followed: the agent logs")
    assert found[1][2].startswith("capability bandwidth is not followed: chain the plugin")
    assert found[2][2].startswith("every ADD is refused with code 7: ipam.type: 'host-local' is not called")


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b'{"plugins": 5}', b'{"plugins": [5]}', b"[" * 100_000, b"\xff"]
)
def test_a_file_that_is_no_network_is_named(content: bytes) -> None:
    ((level, where, _), *_) = checked(("10-x.conf", content))
    assert (level, where) == (Level.ERROR.name, "10-x.conf")


def test_a_network_that_runtimes_take_before_ours_is_an_error() -> None:
    other = {"name": "other", "cniVersion": "1.0.0", "type": "bridge"}
    ours = {"name": "net", "cniVersion": "1.0.0", "type": "tortie"}
    assert checked(("05-other.conf", other), ("10-tortie.conf", ours)) == [
        ("ERROR", "05-other.conf", "runtimes take it, and not 10-tortie.conf: move it away")
    ]
    assert checked(("10-tortie.conf", ours), ("20-other.conf", other)) == []
    assert checked(("05-other.conf", other)) == [("NOTE", "05-other.conf", "no network asks for our plugins")]
    assert checked() == [("NOTE", "no file", "no network asks for our plugins")]


def test_the_command_prints_what_it_found_and_ends_with_1_by_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "10-tortie.conflist").write_bytes(conflist("net", portmap=False))
    asked = ["cni", "check", "--conf-dir", str(tmp_path)]
    main(asked)
    assert capsys.readouterr().out == "everything is followed\n"
    (tmp_path / "20-calico.conf").write_text(json.dumps({**CALICO, "ipam": {"type": "host-local"}}))
    os.mkfifo(tmp_path / "30-pipe.conf")
    (tmp_path / "40-passed-over.txt").write_text("{")
    with pytest.raises(SystemExit) as ended:
        main([*asked, "-o", "json"])
    assert ended.value.code == 1
    found = json.loads(capsys.readouterr().out)
    assert [(one["level"], one["where"]) for one in found] == [
        ("error", "20-calico.conf, calico"),
        ("error", "30-pipe.conf"),
    ]


def test_the_command_says_that_there_is_no_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["cni", "check", "--conf-dir", str(tmp_path / "none")])
    assert capsys.readouterr().out == "NOTE     no file: no network asks for our plugins\n"
