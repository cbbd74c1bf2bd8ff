"""Settings from file, environment and flags, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.config import ConfigError, load, password


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
        ("[bgp]\nhold_seconds = 2", "bgp.hold_seconds: must be 0 or at least 3 (RFC 4271)"),
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


def test_a_file_that_was_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load(tmp_path / "absent.toml", {}, {})


def test_a_password_file_open_to_everybody_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("secret\n")
    file.chmod(0o644)
    config = load(None, {"TORTIE_ETCD_PASSWORD_FILE": str(file)}, {"node.name": "n"})
    with pytest.raises(ConfigError, match=r"has mode 0644: too open for a secret; chmod it to 0640 or less"):
        password(config.etcd)
    file.chmod(0o640)
    assert password(config.etcd) == "secret"
