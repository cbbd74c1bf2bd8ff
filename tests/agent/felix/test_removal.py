"""What Felix leaves is read, taken away and put back, on the kernel of a fresh namespace and with its real programs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.felix import removal
from agent.felix.felix_rules import FilterRemains
from agent.felix.kernel_rules import read_filter_remains
from agent.felix.other_remains import other_remains
from tests.fixtures.namespace import fresh_namespace, ip
from tests.scenes.felix.left_rules import MODES, leave_rules, listing, run


@pytest.fixture(autouse=True)
def namespace() -> Iterator[None]:
    with fresh_namespace():
        yield


def remains() -> FilterRemains:
    return asyncio.run(read_filter_remains())


@pytest.mark.parametrize("mode", MODES)
def test_what_a_stopped_felix_leaves_is_named_with_the_rule_that_drops(mode: str) -> None:
    assert remains() == FilterRemains()
    leave_rules(mode)
    found = remains()
    assert found.unread == ()
    text = str(found.dropped)
    assert "Unknown interface" in text
    assert "from a pod that Calico did not know" in text
    origin = "iptables-legacy" if "legacy" in mode else "nftables"
    assert {table.origin for table in found.tables} == {origin}
    assert "wl-dispatch" in text


@pytest.mark.parametrize("mode", MODES)
def test_a_removal_leaves_nothing_of_calicos_and_all_of_others_and_undo_gives_the_same_listing(
    mode: str, tmp_path: Path
) -> None:
    leave_rules(mode)
    before, found = listing(mode), remains()
    file = tmp_path / "undo"
    removal.write_undo(file, removal.undo_sections(found, ()))
    assert listing(mode) == before, "writing the undo file changes nothing"
    removal.remove(found, ())
    after = listing(mode)
    assert remains() == FilterRemains()
    assert "Unknown interface" not in after
    assert "others" in after, "what is not Calico's stays"
    if not mode.startswith("nft"):
        assert "not of cali: -j cali-FORWARD" in after
        assert "--dport 179" in after
    for _ in range(2):  # a second time puts back the same, too
        removal.put_back(removal.read_undo(file), remains())
        assert listing(mode) == before


def test_an_undo_file_is_for_root_alone_and_never_written_over(tmp_path: Path) -> None:
    file = tmp_path / "undo"
    removal.write_undo(file, ())
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(removal.RemovalFailed, match="File exists"):
        removal.write_undo(file, ())
    os.symlink(file, tmp_path / "link")
    with pytest.raises(removal.RemovalFailed, match="File exists"):
        removal.write_undo(tmp_path / "link", ())
    with pytest.raises(removal.RemovalFailed, match="cannot be read"):
        removal.read_undo(tmp_path / "link")
    file.chmod(0o644)
    with pytest.raises(removal.RemovalFailed, match="mode 0600"):
        removal.read_undo(file)


HOSTILE = {
    "another table": "#! nft\ntable ip filter {\n}\n",
    "another command": "#! nft\nflush ruleset\n",
    "a file of others": '#! nft\ntable ip calico {\n\tinclude "/etc/other"\n}\n',
    "two commands on a line": "#! nft\ntable ip calico {\n}; flush ruleset\n",
    "a chain of others": "#! iptables-nft-restore\n*filter\n:INPUT DROP [0:0]\nCOMMIT\n",
    "a user chain of others": "#! iptables-nft-restore\n*filter\n:others - [0:0]\nCOMMIT\n",
    "a rule of others": "#! iptables-nft-restore\n*filter\n-A INPUT -j DROP\nCOMMIT\n",
    "a deletion": "#! iptables-nft-restore\n*filter\n-F INPUT\nCOMMIT\n",
    "a set of others": "#! ipset\ncreate others hash:ip\n",
    "another program": "#! sh\ntouch /tmp/x\n",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_an_undo_file_that_says_anything_else_is_not_carried_out(what: str, tmp_path: Path) -> None:
    file = tmp_path / "undo"
    file.write_text(f"{removal.HEAD}\n{HOSTILE[what]}")
    file.chmod(0o600)
    with pytest.raises(removal.RemovalFailed, match="what is not Calico's"):
        removal.read_undo(file)


def test_a_file_that_is_no_undo_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "undo"
    file.write_text("flush ruleset\n")
    file.chmod(0o600)
    with pytest.raises(removal.RemovalFailed, match="is no undo file"):
        removal.read_undo(file)


def test_sets_go_after_the_rules_that_name_them_and_come_back_before(tmp_path: Path) -> None:
    run(
        ["ipset", "restore"],
        "create cali40s:abc hash:net\nadd cali40s:abc 198.18.0.0/24\ncreate others hash:ip\n",
    )
    leave_rules("iptables-nft")
    rule = [
        "-m",
        "set",
        "--match-set",
        "cali40s:abc",
        "src",
        "-m",
        "comment",
        "--comment",
        "cali:setset",
        "-j",
        "DROP",
    ]
    run(["iptables-nft", "-A", "cali-INPUT", *rule])
    before, found, sets = listing("iptables-nft"), remains(), removal.calicos_sets()
    assert sets == ("cali40s:abc",)
    file = tmp_path / "undo"
    removal.write_undo(file, removal.undo_sections(found, sets))
    removal.remove(found, sets)
    assert run(["ipset", "list", "-name"]).split() == ["others"]
    removal.put_back(removal.read_undo(file), remains())
    assert listing("iptables-nft") == before
    assert "198.18.0.0/24" in run(["ipset", "list", "cali40s:abc"])


def test_a_table_that_iptables_cannot_write_down_is_left_as_it_is() -> None:
    leave_rules("iptables-nft")
    run(["nft", "add rule ip filter FORWARD ip saddr { 198.18.0.1, 198.18.0.2 } meta iifkind veth accept"])
    before = listing("nft ip")
    with pytest.raises(removal.RemovalFailed):
        removal.undo_sections(remains(), ())
    assert listing("nft ip") == before
    assert remains().dropped is not None


def test_rules_of_others_with_a_drop_for_all_pods_are_not_calicos() -> None:
    run(["nft", "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; }"])
    run(["nft", 'add rule ip filter FORWARD iifname "cali*" drop'])
    run(["nft", "add chain ip filter calico-dhcp; add rule ip filter FORWARD jump calico-dhcp"])
    assert remains() == FilterRemains()


def test_without_the_program_that_wrote_the_rules_nothing_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_rules("iptables-nft")
    before, found = listing("iptables-nft"), remains()
    monkeypatch.setattr(removal, "PLACES", str(tmp_path))
    with pytest.raises(removal.RemovalFailed, match="is needed and not installed: apt install iptables"):
        removal.undo_sections(found, removal.calicos_sets())
    assert listing("iptables-nft") == before


def test_what_else_lies_here_is_named_and_left(tmp_path: Path) -> None:
    assert list(other_remains(tmp_path)) == []
    file = tmp_path / "etc/cni/net.d/10-calico.conflist"
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    ip("link add wireguard.cali type veth peer name far")
    (conflist, meaning), (device, _) = other_remains(tmp_path)
    assert (conflist, device) == ("/etc/cni/net.d/10-calico.conflist", "interface wireguard.cali")
    assert "before 10-tortie.conflist" in meaning
    assert file.exists()
