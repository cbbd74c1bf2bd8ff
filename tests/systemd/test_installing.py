"""What an installation knows without a machine: names, comparisons, the order in which switches are set back."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.configuration.loading import load
from agent.netlink.objects import Link
from agent.service import host_snapshot, layout
from agent.service.install import ServiceInstallFailed, environment_name, find_wheel, unit_file
from agent.service.uninstall import (
    MOST_DIFFERENCES,
    compare_with_record,
    is_ipip_superfluous,
    read_record,
)
from tests import ROOT


def test_the_skeleton_is_the_default_settings(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(layout.SKELETON)
    assert load(path, {}, {}) == load(None, {}, {})
    path.write_text(layout.SKELETON.replace("# ", ""))
    with pytest.raises(Exception, match="not TOML"):
        load(path, {}, {})


def test_every_file_that_is_placed_exists_and_every_file_of_systemd_is_placed() -> None:
    folder = ROOT / "systemd"
    placed = {one.source for one in layout.FILES}
    assert placed == {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {
        "README.md"
    }
    assert all(unit_file(source) for source in placed)


def test_directories_come_before_those_above_them() -> None:
    found = layout.directories()
    assert all(
        found.index(one) < found.index(above)
        for one in found
        for above in layout.parents(one)
        if above in found
    )
    assert layout.Path("etc/systemd/networkd.conf.d") in found


@pytest.mark.parametrize(
    ("before", "now", "found"),
    [
        ({"rules": ["a", "b"]}, {"rules": ["a", "b"]}, {}),
        ({"rules": ["a", "b"]}, {"rules": ["b", "c"]}, {"rules": ["- a", "+ c"]}),
        ({"nft": ["table"]}, {}, {"nft": ["- table"]}),
        ({"nft": []}, {"nft": ["table"]}, {"nft": ["+ table"]}),
    ],
)
def test_a_comparison_names_what_went_and_what_came(
    before: host_snapshot.Snapshot, now: host_snapshot.Snapshot, found: dict[str, list[str]]
) -> None:
    assert host_snapshot.snapshot_differences(before, now) == found


def test_switches_that_change_others_are_set_back_first() -> None:
    record = {
        "sysctls": [
            "net/ipv4/conf/all/accept_redirects = 0",
            "net/ipv4/conf/eth0/forwarding = 0",
            "net/ipv4/conf/eth0/rp_filter = 2",
            "net/ipv4/ip_forward = 0",
            "net/ipv6/conf/all/forwarding = 0",
        ]
    }
    assert list(host_snapshot.sysctls_to_restore(record).items()) == [
        ("net/ipv4/ip_forward", "0"),
        ("net/ipv4/conf/all/accept_redirects", "0"),
        ("net/ipv6/conf/all/forwarding", "0"),
        ("net/ipv4/conf/eth0/forwarding", "0"),
    ]


def test_without_a_record_nothing_is_set_back_and_the_proof_says_that_there_is_none(tmp_path: Path) -> None:
    record = read_record(tmp_path)
    assert host_snapshot.sysctls_to_restore(record) == {}
    assert list(compare_with_record(record, tmp_path)) == [
        "there is no record of what the machine was like before: nothing to compare with"
    ]


def test_the_proof_shows_what_is_left_but_not_without_end(tmp_path: Path) -> None:
    now = host_snapshot.take_snapshot(tmp_path)
    record = {**now, "rules": [*now["rules"], *(f"rule {number}" for number in range(MOST_DIFFERENCES + 5))]}
    said = list(compare_with_record(record, tmp_path))
    assert f"routes: as before ({len(now['routes'])} lines compared)" in said
    assert "rules: not as before; since then, by others or left on purpose:" in said
    assert "  and 5 more" in said


LO, ETH0 = Link(1, "lo", None, 65536, True), Link(2, "eth0", None, 1500, True)
TUNNEL = Link(3, "tunl0", "ipip", 1480, False)
BEFORE = ["1: lo: <LOOPBACK>", "2: eth0: <BROADCAST>"]


@pytest.mark.parametrize(
    ("before", "links", "goes"),
    [
        ({"links": BEFORE}, [LO, ETH0, TUNNEL], True),
        ({"links": BEFORE}, [LO, ETH0], False),
        ({"links": [*BEFORE, "3: tunl0@NONE: <NOARP>"]}, [LO, ETH0, TUNNEL], False),
        ({"links": [*BEFORE, "3: tunl0: <NOARP>"]}, [LO, ETH0, TUNNEL], False),
        ({"links": [*BEFORE, "3: tunl00: <NOARP>"]}, [LO, ETH0, TUNNEL], True),
        ({"links": BEFORE}, [LO, ETH0, TUNNEL, Link(4, "office", "ipip", 1480, True)], False),
        ({"links": BEFORE}, [LO, ETH0, Link(3, "tunl0", "dummy", 1500, True)], False),
        ({}, [LO, ETH0, TUNNEL], False),
    ],
)
def test_the_module_of_tunl0_goes_when_it_came_with_the_agent_and_serves_nobody_else(
    before: host_snapshot.Snapshot, links: list[Link], goes: bool
) -> None:
    assert is_ipip_superfluous(before, {link.name: link for link in links}) is goes


def test_a_wheel_is_found_and_named_by_what_is_in_it(tmp_path: Path) -> None:
    with pytest.raises(ServiceInstallFailed, match="no wheel of tortie; name a directory"):
        find_wheel(tmp_path)
    wheel = tmp_path / "tortie-1.2-py3-none-any.whl"
    wheel.write_bytes(b"one")
    (tmp_path / "other-1.0-py3-none-any.whl").touch()
    first = environment_name(find_wheel(tmp_path))
    wheel.write_bytes(b"two")
    assert first.startswith("1.2-")
    assert environment_name(find_wheel(tmp_path)) != first
    (tmp_path / "tortie-1.3-py3-none-any.whl").touch()
    with pytest.raises(ServiceInstallFailed, match="2 wheels of tortie"):
        find_wheel(tmp_path)
