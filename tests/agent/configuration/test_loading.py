"""Settings from file, environment and flags, and what is said of wrong ones."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import pytest

from agent.cli.command import CommandFailed
from agent.cli.commands.configuration import run_config_check, run_config_show
from agent.configuration.config import ConfigError
from agent.configuration.loading import load, loaded
from agent.configuration.reference import reference
from agent.datastore.etcd_settings import etcd_config
from agent.service.start import agent_parser, checked_settings
from tests import ROOT


def test_the_last_word_wins(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('[node]\nname = "from-file"\n[bgp]\nhold_seconds = 30\n')
    environment = {"TORTIE_NODE_NAME": "from-environment", "ETCD_ENDPOINTS": "http://a:1,http://b:2"}
    config = load(file, environment, {"node.name": "from-flag"})
    assert config.node_name == "from-flag"
    assert config.bgp.hold_seconds == 30
    assert config.etcd.endpoints == ["http://a:1", "http://b:2"]


def test_a_switch_is_true_or_false_and_nothing_else() -> None:
    flags = {"node.name": "n"}
    assert load(None, {"TORTIE_KERNEL_NEXTHOP_OBJECTS": "true"}, flags).kernel.nexthop_objects
    assert not load(None, {"TORTIE_KERNEL_NEXTHOP_OBJECTS": "False"}, flags).kernel.nexthop_objects
    with pytest.raises(ConfigError, match="TORTIE_KERNEL_NEXTHOP_OBJECTS: 'maybe' is not a value"):
        load(None, {"TORTIE_KERNEL_NEXTHOP_OBJECTS": "maybe"}, flags)


def test_our_own_environment_goes_before_calicos() -> None:
    environment = {"TORTIE_ETCD_ENDPOINTS": "http://ours:1", "ETCD_ENDPOINTS": "http://calicos:1"}
    assert load(None, environment, {"node.name": "n"}).etcd.endpoints == ["http://ours:1"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[node]\nnmae = 'x'", "node.nmae: unknown key; did you mean name?"),
        ("[ndoe]\nname = 'x'", "ndoe: unknown key; did you mean node?"),
        ("[bgp]\nhold_seconds = 'long'", "bgp.hold_seconds: expected int, got str"),
        (
            "[workloads]\npeers = 'role = x'",
            "workloads.peers: unexpected '=' at character 6; write a selector such as "
            "projectcalico.org/namespace == 'routers'",
        ),
        (
            "[[bgp.uplink]]\ninterface = 'eth*'\nas = 'other'",
            "bgp.uplink: table 1: as: 'other' is none of external",
        ),
        ("[[bgp.uplink]]\ninterface = 'eth*'\nas = 0", "bgp.uplink: table 1: as: 0 is none of external"),
        ("[[bgp.uplink]]\nas = 'internal'", "bgp.uplink: table 1: interface: '' is no interface's name"),
        (
            "[[bgp.uplink]]\ninterface = 'cali*'",
            "bgp.uplink: table 1: interface: 'cali*' names what leads to pods",
        ),
        ("[[bgp.uplink]]\ninterface = 'lo'", "bgp.uplink: table 1: interface: 'lo' names what leads to pods"),
        (
            "[[bgp.uplink]]\ninterface = 'eth1'\nsecret = '../x'",
            "bgp.uplink: table 1: secret: '../x' must be NAME/KEY",
        ),
        (
            "[[bgp.uplink]]\ninterface = 'eth1'\nhold_seconds = 2",
            "bgp.uplink: table 1: hold_seconds: must be 0",
        ),
        ("[[bgp.uplink]]\ninterface = 'eth1'\nport = 0", "bgp.uplink: table 1: port: must be 1 to 65535"),
        ("[[bgp.uplink]]\ninterfaces = 'eth1'", "unknown key; did you mean interface?"),
        ("[[bgp.uplink]]\nremote_as = 1", "unknown key"),
        ("[bgp]\nhold_seconds = 2", "bgp.hold_seconds: must be 0 or at least 3 (RFC 4271)"),
        (
            "[kernel]\nresilient_groups = true",
            "kernel.resilient_groups: goes with kernel.nexthop_objects; set both or neither",
        ),
        ("[kernel]\nresilient_buckets = 0", "kernel.resilient_buckets: must be 1 to 65535"),
        ("[kernel]\nresilient_idle_seconds = -1", "kernel.resilient_idle_seconds: must be 0 to 86400"),
        ("[node]\nname = 'UPPER'", "node.name: 'UPPER' must be lower-case letters, digits, '-' and '.'"),
        (
            "[node]\naddress = '10.0.0.1'",
            "node.address: '10.0.0.1' must be a host's address with the length of its subnet",
        ),
        (
            "[node]\naddress = 'x/24'",
            "node.address: 'x/24' is not an IPv4 address with a length, such as 10.0.0.5/24",
        ),
        ("[etcd]\nendpoints = []", "etcd.endpoints: name at least one, such as http://127.0.0.1:2379"),
        ("[etcd]\ncert_file = '/c'", "etcd.cert_file: goes with etcd.key_file; set both or neither"),
        ("[log]\nlevel = 'loud'", "log.level: 'loud' is none of debug, info, warning, error"),
        ("[routes]\nlearned = 2", "routes.learned: must be 3 to 255 (0 to 2 are the kernel's own)"),
        ("[", "not TOML"),
    ],
)
def test_a_wrong_setting_is_one_sentence_with_its_key(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file, {}, {})
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("address", "172.26.0.11/32"),
        ("address", "10.0.0.0/31"),
        ("address", "10.0.0.1/31"),
        ("address", "10.0.0.5/24"),
        ("address", "none"),
        ("address6", "fd00::5/128"),
        ("address6", "fd00::1/127"),
        ("address6", "fd00::ffff:ffff:ffff:ffff/64"),
        ("address6", "none"),
    ],
)
def test_a_hosts_address_has_any_length_that_a_host_may_have(key: str, text: str) -> None:
    assert getattr(load(None, {}, {"node.name": "n", f"node.{key}": text}).node, key) == text


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("address", "10.0.0.255/24"),
        ("address", "10.0.0.3/30"),
        ("address", "0.0.0.0/32"),
        ("address", "224.0.0.1/32"),
        ("address6", "::/128"),
        ("address6", "ff02::1/128"),
    ],
)
def test_what_can_be_no_hosts_address_is_refused(key: str, text: str) -> None:
    with pytest.raises(ConfigError, match=f"node.{key}: '{re.escape(text)}' must be a host's address"):
        load(None, {}, {"node.name": "n", f"node.{key}": text})


def test_a_node_has_an_address_of_some_version() -> None:
    with pytest.raises(ConfigError, match=r"node\.address: none, as node\.address6 is"):
        load(None, {}, {"node.name": "n", "node.address": "none", "node.address6": "none"})


def test_files_beside_it_are_read_in_the_order_of_their_names_and_each_value_has_its_origin(
    tmp_path: Path,
) -> None:
    file, drop_ins = tmp_path / "agent.toml", tmp_path / "conf.d"
    drop_ins.mkdir()
    file.write_text('[node]\nname = "first"\nlabels = {a = "1"}\n[bgp]\nhold_seconds = 30\n')
    (drop_ins / "20-late.toml").write_text('[node]\nname = "late"\n')
    (drop_ins / "10-early.toml").write_text('[node]\nname = "early"\nlabels = {b = "2"}\n')
    (drop_ins / "30.toml.off").write_text("not read")
    found = loaded(file, {"TORTIE_LOG_LEVEL": "debug"}, {"node.address": "10.0.0.5/24"})
    assert (found.config.node_name, found.config.node.labels) == ("late", {"b": "2"})
    settings = {setting.key: (setting.value, setting.origin) for setting in found.settings()}
    assert settings["node.name"] == ("late", str(drop_ins / "20-late.toml"))
    assert settings["node.labels"] == ({"b": "2"}, str(drop_ins / "10-early.toml"))
    assert settings["bgp.hold_seconds"] == (30, str(file))
    assert settings["log.level"] == ("debug", "TORTIE_LOG_LEVEL")
    assert settings["node.address"] == ("10.0.0.5/24", "--node-address")
    assert settings["bgp.restart_seconds"] == (120, "default")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[bgp]\nhold_secs = 5", "10.toml: bgp.hold_secs: unknown key; did you mean hold_seconds?"),
        ("[bgp]\nhold_seconds = 'x'", "10.toml: bgp.hold_seconds: expected int, got str"),
        ("[bgp]\nhold_seconds = 1", "10.toml: bgp.hold_seconds: must be 0 or at least 3"),
        ("[node\n", "10.toml: not TOML"),
    ],
)
def test_what_is_wrong_in_a_file_beside_it_names_that_file(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "agent.toml").write_text("[bgp]\nhold_seconds = 30\n")
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "10.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "agent.toml", {}, {"node.name": "n"})
    assert sentence in str(caught.value)


def test_a_variable_that_means_nothing_is_refused_and_others_programs_variables_are_not() -> None:
    with pytest.raises(
        ConfigError, match="TORTIE_BGP_HOLD_SECS: unknown variable; did you mean TORTIE_BGP_HOLD"
    ):
        load(None, {"TORTIE_BGP_HOLD_SECS": "5"}, {"node.name": "n"})
    assert load(None, {"TORTIE_CNI_SOCKET": "/s"}, {"node.name": "n"}).node_name == "n"


def test_the_reference_is_what_the_program_knows() -> None:
    page = ROOT / "docs" / "configuration.md"
    assert page.read_text() == reference(), "run: tortie config reference > docs/configuration.md"


def test_check_and_show_say_what_an_agent_would_run_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "agent.toml"
    file.write_text("[node]\nname = 'n'\n[bgp]\nhold_seconds = 30\n")
    plain = {"config": None, "etcd_endpoints": None}
    run_config_check(argparse.Namespace(**plain, file=file))
    assert "good; " in capsys.readouterr().out
    run_config_show(argparse.Namespace(**{**plain, "config": file}, output="json"))
    shown = {row["key"]: row for row in json.loads(capsys.readouterr().out)}
    assert shown["bgp.hold_seconds"] == {"key": "bgp.hold_seconds", "value": 30, "origin": str(file)}
    run_config_show(argparse.Namespace(**{**plain, "config": file}, output="table"))
    assert re.search(rf"bgp.hold_seconds +30 +{file}", capsys.readouterr().out)
    key = tmp_path / "key"
    key.write_text("x")
    key.chmod(0o644)
    file.write_text(f"[node]\nname = 'n'\n[etcd]\ncert_file = '{key}'\nkey_file = '{key}'\n")
    with pytest.raises(CommandFailed, match=r"etcd\.key_file: .* has mode 0644: too open for a secret"):
        run_config_check(argparse.Namespace(**plain, file=file))
    key.chmod(0o600)
    file.write_text(
        f"[node]\nname = 'n'\n[etcd]\nendpoints = ['https://a']\ncert_file = '{key}'\nkey_file = '{key}'\n"
    )
    with pytest.raises(CommandFailed, match="not a certificate and its own key"):
        run_config_check(argparse.Namespace(**plain, file=file))


def test_a_file_that_was_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load(tmp_path / "absent.toml", {}, {})


def test_a_password_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("secret\n")
    file.chmod(0o644)
    environment = {"TORTIE_ETCD_PASSWORD_FILE": str(file), "TORTIE_ETCD_USERNAME": "n"}
    config = load(None, environment, {"node.name": "n"})
    with pytest.raises(ConfigError, match=r"has mode 0644: too open for a secret; chmod it to 0640 or less"):
        etcd_config(config.etcd)
    file.chmod(0o640)
    assert etcd_config(config.etcd).password == "secret"


def test_a_daemon_refuses_tls_files_that_cannot_be_used_before_it_does_anything(
    tmp_path: Path,
) -> None:
    for name in ("cert", "key"):
        (tmp_path / name).write_text("no certificate")
        (tmp_path / name).chmod(0o600)
    file = tmp_path / "agent.toml"
    file.write_text(
        f"[node]\nname = 'n'\n[etcd]\nendpoints = ['https://127.0.0.1:1']\ncert_file = '{tmp_path}/cert'\n"
        f"key_file = '{tmp_path}/key'\n"
    )
    with pytest.raises(ConfigError, match=r"cert and .*key: not a certificate and its own key"):
        checked_settings(agent_parser().parse_args(["--config", str(file)]))
