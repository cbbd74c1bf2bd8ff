"""Preflight's reading: a real kernel in a fresh namespace, real processes and sockets, files below another root."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_network
from pathlib import Path

import pytest

from agent.cli.commands.checksystem import tls
from agent.configuration.config import Config, EtcdSettings
from agent.dataplane.kernel.linux import NetlinkKernel
from agent.preflight import host_reader
from agent.preflight.findings import findings
from agent.preflight.host_facts import AGENT, HostFacts, HostFinding, ModuleState, Process
from ipam.model import EncapsulationMode, Pool
from tests.fixtures.certificates import LEAF, PLAIN_LEAF, Authority
from tests.fixtures.etcd import start_etcd
from tests.fixtures.namespace import fresh_namespace, ip, kernel_has
from tests.scenes.felix.left_rules import leave_rules
from tests.scenes.lab import flannel

POOL = Pool("lan", ip_network("203.0.113.0/24"), 26, vxlan=EncapsulationMode.ALWAYS)
LISTEN = """
import socket, sys
with socket.create_server(("127.0.0.1", 179)) as door:
    print("listening", flush=True)
    sys.stdin.read()
"""
DATED = """
import socket, sys
with socket.create_server(("127.0.0.1", 0)) as door:
    print(door.getsockname()[1], flush=True)
    caller, _ = door.accept()
    if sys.argv[2:]:
        import ssl
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*sys.argv[2:])
        caller = context.wrap_socket(caller, server_side=True)
    caller.recv(4096)
    caller.sendall(f"HTTP/1.1 200 OK\\r\\nDate: {sys.argv[1]}\\r\\nContent-Length: 0\\r\\n\\r\\n".encode())
"""


@pytest.fixture(autouse=True)
def namespace() -> Iterator[None]:
    with fresh_namespace():
        yield


async def facts(root: Path = Path("/")) -> HostFacts:
    kernel = NetlinkKernel()
    try:
        return replace(await host_reader.read_host(kernel, Config(), root), pools=(POOL,))
    finally:
        kernel.close()


async def with_agent() -> HostFacts:
    found = await facts()
    return replace(found, processes=(*found.processes, Process(1, AGENT)))


def about(found: tuple[HostFinding, ...], words: str) -> list[HostFinding]:
    return [one for one in found if words in f"{one.what} {one.evidence}"]


def run(command: str) -> None:
    """A fix as a person types it, in this namespace."""
    subprocess.run(["sh", "-ec", command], check=True, capture_output=True)


@contextmanager
def program(source: str, *words: str) -> Iterator[tuple[int, str]]:
    """A program of its own in this namespace: its pid, and the line by which it says that it is ready."""
    command = [sys.executable, "-c", source, *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.pid, process.stdout.readline().strip()
        process.kill()


@pytest.mark.parametrize("program_", ["iptables-nft", "iptables-legacy", "nft"])
async def test_flannels_rules_are_found_in_each_form_and_their_fix_takes_them_away(
    program_: str, tmp_path: Path
) -> None:
    words = {"own": "203.0.113.0/26", "range": "203.0.113.0/24"}
    restore = ["nft", "-f", "-"] if program_ == "nft" else [f"{program_}-restore"]
    rules = (flannel.NFTABLES if program_ == "nft" else flannel.IPTABLES).format(**words)
    subprocess.run(restore, check=True, input=rules, text=True)
    (tmp_path / "run/flannel").mkdir(parents=True)
    (tmp_path / "run/flannel/subnet.env").write_text(
        "FLANNEL_NETWORK=203.0.113.0/24\nFLANNEL_SUBNET=203.0.113.1/26\n"
    )
    found = await facts()
    assert len(found.flannel.chains) == 2
    networks = host_reader.flannel_networks(tmp_path)
    assert networks == (ip_network("203.0.113.0/24"),)
    known = replace(found, flannel=replace(found.flannel, networks=networks))
    (one,) = about(findings(known), "flannel's rules masquerade")
    run(one.fix)
    assert (await facts()).flannel.chains == ()


async def test_each_fix_of_the_network_ends_its_finding() -> None:
    ip("link add docker0 type bridge")
    ip("address add 203.0.113.1/26 dev docker0")
    ip("link add eth0 type veth peer name far")
    ip("address add 198.18.0.1/24 dev eth0")
    ip("link set far up")
    ip("link set eth0 up")
    ip("route add default dev eth0")
    ip("route add 203.0.113.128/26 dev eth0 proto static")
    ip("link add cali1 type veth peer name pod")
    run(
        "nft 'add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'"
    )
    run("sysctl -w net.ipv4.conf.default.rp_filter=1 net.ipv4.ip_forward=0")

    found = findings(await with_agent())
    assert about(found, "docker0 (Docker's bridge) has 203.0.113.1/26")
    expected = (
        "203.0.113.128/26 dev eth0 proto static",
        "ip filter FORWARD drops",
        "net.ipv4.ip_forward = 0",
        "net.ipv4.conf.default.rp_filter = 1",
        "it has MTU 1500; eth0 has 1500",
    )
    for words in expected:
        (one,) = about(found, words)
        run(one.fix)
    after = findings(await with_agent())
    assert [words for words in expected if about(after, words)] == []
    (chain,) = (await facts()).forward
    assert chain.drops  # the policy stays another's: only pods are let through


@pytest.mark.parametrize("mode", ["nft ip", "iptables-nft", "ip6tables-legacy"])
async def test_what_calico_left_is_an_error_until_its_fix_was_run(mode: str, tmp_path: Path) -> None:
    assert about(findings(await facts()), "rules that Calico left") == []
    leave_rules(mode)
    (one,) = about(findings(await facts()), "rules that Calico left drop the packets of new pods")
    assert "Unknown interface" in one.evidence
    tortie = f"{sys.executable} -m agent.cli.main"
    run(one.fix.replace("tortie", tortie, 1) + f" --undo-file {tmp_path}/undo")
    assert about(findings(await facts()), "rules that Calico left") == []


async def test_who_has_bgps_port_is_named_with_its_pid() -> None:
    assert about(findings(await facts()), "BGP's port") == []
    with program(LISTEN) as (pid, _):
        (one,) = about(findings(await facts()), "BGP's port")
        assert one.evidence.startswith("127.0.0.1 port 179: python")
        assert f"(pid {pid}" in one.evidence


async def test_processes_of_other_namespaces_are_no_concern_of_ours() -> None:
    here = {process.pid for process in (await facts()).processes}
    with program(LISTEN) as (pid, _):
        assert {process.pid for process in (await facts()).processes} == here | {pid}


async def test_the_kernels_parts_are_told_as_they_are() -> None:
    told = (await facts()).modules
    for name in ("ipip", "veth"):
        can = kernel_has(name)
        assert (told[name] is ModuleState.MISSING) is not can, (name, told[name], can)
    assert told["nf_tables"] is ModuleState.PRESENT  # the tests beside this one use it


def test_parts_are_found_in_the_lists_of_a_kernel(tmp_path: Path) -> None:
    (tmp_path / "proc/sys/kernel").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/osrelease").write_text("6.1.0-9-amd64\n")
    (tmp_path / "proc/modules").write_text("vxlan 155648 0 - Live 0x0000000000000000\n")
    (tmp_path / "proc/kallsyms").write_text("0000000000000000 T nft_do_chain\n0000000000000000 t other\n")
    folder = tmp_path / "lib/modules/6.1.0-9-amd64"
    folder.mkdir(parents=True)
    (folder / "modules.builtin").write_text("kernel/drivers/net/veth.ko\n")
    (folder / "modules.dep").write_text("kernel/net/ipv4/ipip.ko.xz: kernel/net/ipv4/ip_tunnel.ko.xz\n")
    assert host_reader.modules(tmp_path) == {
        "ipip": ModuleState.LOADABLE,
        "vxlan": ModuleState.PRESENT,
        "nf_tables": ModuleState.PRESENT,
        "nft_masq": ModuleState.MISSING,
        "nft_chain_nat": ModuleState.MISSING,
        "veth": ModuleState.PRESENT,
    }
    assert host_reader.kernel_release(tmp_path / "proc") == (6, 1)


def process(root: Path, pid: int, comm: str, *words: str, unit: str = "x.service") -> None:
    directory = root / "proc" / str(pid)
    directory.mkdir(parents=True)
    (directory / "comm").write_text(f"{comm}\n")
    (directory / "cmdline").write_text("\0".join((*words, "")))
    (directory / "cgroup").write_text(f"0::/system.slice/{unit}\n")
    (directory / "limits").write_text(
        "Limit  Soft Hard Units\nMax open files            1024    4096   files\n"
    )


async def test_other_programs_are_known_by_name_with_their_service(tmp_path: Path) -> None:
    process(tmp_path, 10, "systemd-network", "/usr/lib/systemd/systemd-networkd")
    process(tmp_path, 11, "firewalld", "/usr/bin/python3", "-s", "/usr/sbin/firewalld", "--nofork")
    process(tmp_path, 12, "python3", "/opt/tortie/bin/python3", "-m", "agent.daemon")
    process(tmp_path, 13, "bird", "/usr/sbin/bird", "-f", unit="bird.service")
    told = await facts(tmp_path)
    assert [one.name for one in told.processes] == [
        *("systemd-networkd", "firewalld", "tortie-agent", "bird")
    ]
    assert told.processes[3].unit == "bird.service"
    assert told.agent_open_files == 1024
    found = findings(told)
    assert about(found, "systemd-networkd would manage")
    for place in ("etc/systemd/network/10-tortie.network", "usr/lib/systemd/networkd.conf.d/tortie.conf"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).touch()
    assert not about(findings(await facts(tmp_path)), "systemd-networkd would manage")


async def test_a_fix_that_writes_a_file_writes_the_one_that_is_looked_for(tmp_path: Path) -> None:
    process(tmp_path, 10, "NetworkManager", "/usr/sbin/NetworkManager")
    (one,) = about(findings(await facts(tmp_path)), "NetworkManager would manage")
    command = one.fix.removesuffix(" && nmcli general reload conf")
    run(command.replace("/etc/NetworkManager", f"{tmp_path}/etc/NetworkManager"))
    assert "managed=0" in (tmp_path / "etc/NetworkManager/conf.d/tortie.conf").read_text()
    assert not about(findings(await facts(tmp_path)), "NetworkManager would manage")


async def test_conflists_are_those_that_runtimes_read(tmp_path: Path) -> None:
    directory = tmp_path / "etc/cni/net.d"
    directory.mkdir(parents=True)
    for name in ("10-tortie.conflist", "00-first.conf", "01-away.conflist.off"):
        (directory / name).touch()
    (one,) = about(findings(await facts(tmp_path)), "/etc/cni/net.d/")
    assert "00-first.conf comes before" in one.evidence


@pytest.mark.parametrize("ahead", [0, 100])
def test_the_clocks_difference_is_told_from_the_date_of_an_answer(ahead: int) -> None:
    stamp = format_datetime(datetime.now(UTC) - timedelta(seconds=ahead), usegmt=True)  # noqa: TID251
    with program(DATED, stamp) as (_, port):
        told = host_reader.with_skew(HostFacts(), [f"http://127.0.0.1:{port}"], None).skew_seconds
    assert told is not None
    assert abs(told - ahead) < 2


@pytest.mark.parametrize("said", [LEAF, PLAIN_LEAF], ids=["as RFC 5280 has it", "without key identifiers"])
def test_a_certificate_that_the_agent_takes_is_taken_to_ask_the_time(
    tmp_path: Path, said: tuple[str, ...]
) -> None:
    authority = Authority(tmp_path)
    authority.issue("member", said=said)
    stamp = format_datetime(datetime.now(UTC), usegmt=True)  # noqa: TID251
    context = tls(EtcdSettings(ca_file=authority.file("ca.pem")))
    with program(DATED, stamp, authority.file("member.pem"), authority.file("member.key")) as (_, port):
        told = host_reader.with_skew(HostFacts(), [f"https://127.0.0.1:{port}"], context).skew_seconds
    assert told is not None


def test_nobody_who_tells_the_time_is_no_difference() -> None:
    assert host_reader.with_skew(HostFacts(), ["http://127.0.0.1:1"], None).skew_seconds is None


def test_the_command_prints_each_finding_with_its_fix_and_ends_with_1_for_an_error() -> None:
    """Against a real etcd with a pool, in a namespace where its range is taken."""
    with start_etcd() as etcd:
        command = [sys.executable, "-m", "agent.cli.main", "--etcd-endpoints", etcd.endpoint]

        def tortie(*words: str, given: str = "") -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [*command, *words], input=given, capture_output=True, text=True, check=False
            )

        pool = {"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": "lan"}}
        applied = tortie("apply", "-f", "-", given=json.dumps({**pool, "spec": {"cidr": "203.0.113.0/24"}}))
        assert applied.returncode == 0, applied.stderr
        quiet = tortie("node", "checksystem", "-o", "json")
        assert quiet.returncode == 0, quiet.stdout + quiet.stderr
        assert not [one for one in json.loads(quiet.stdout) if "differs from etcd's" in one["what"]]
        ip("link add eth0 type veth peer name far")
        ip("address add 203.0.113.1/26 dev eth0")
        said = tortie("node", "checksystem")
        assert said.returncode == 1
        assert "ERROR    pool lan overlaps this machine's own network" in said.stdout
        assert "fix:  tortie delete ippool lan" in said.stdout
