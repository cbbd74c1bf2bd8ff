"""A VXLAN device whose VNI or port somebody has: the trouble names who, and the device is made when that ends."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agent.dataplane.kernel.calico_names import VXLAN_DEVICE
from agent.dataplane.kernel.dataplane_objects import Dataplane, Kind
from agent.dataplane.kernel.linux import NetlinkKernel
from tests.fixtures.namespace import fresh_namespace, ip, make_links
from tests.scenes.dataplane.desired_states import VXLAN
from tests.scenes.dataplane.reconcilers import Bench, running

HEAL_SECONDS = 2.0


@pytest.fixture
def kernel() -> Iterator[NetlinkKernel]:
    with fresh_namespace():
        make_links("eth0")
        ip("address add 172.26.0.1/24 dev eth0")
        kernel = NetlinkKernel()
        yield kernel
        kernel.close()


@contextmanager
def a_device_in_the_way_here() -> Iterator[str]:
    ip("link add vx0 type vxlan id 4096 dstport 4789 dev eth0 nolearning")
    yield "the device vx0 has UDP port 4789 (VNI 4096): delete it, or move it"
    ip("link del vx0")


@contextmanager
def a_device_in_the_way_that_was_moved() -> Iterator[str]:
    """To the namespace of a process: with it the device goes."""
    with subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; read wait"], stdin=-1, stdout=-1) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdout.readline()
        ip("link add vx0 type vxlan id 4096 dstport 4789 dev eth0 nolearning")
        ip(f"link set vx0 netns {other.pid}")
        yield (
            "VNI 4096 at UDP port 4789 is taken by the device vx0, which was moved to the network namespace of process "
            f"{other.pid} (sh): delete it there"
        )
        other.stdin.close()


@contextmanager
def a_program_at_the_port() -> Iterator[str]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("", 4789))
        yield f"(pid {os.getpid()}): end it, or have it use another port"


@pytest.mark.parametrize(
    "in_the_way", [a_device_in_the_way_here, a_device_in_the_way_that_was_moved, a_program_at_the_port]
)
async def test_who_has_the_vni_or_the_port_is_named_and_the_device_is_made_when_that_ends(
    kernel: NetlinkKernel, in_the_way: object
) -> None:
    assert callable(in_the_way)
    bench = Bench(kernel, Dataplane(tunnels={VXLAN_DEVICE: VXLAN}))
    with in_the_way() as words:
        async with running(bench):
            await bench.until(lambda: bool(bench.reconciler.snapshot().failures))
            ((kind, name, why),) = bench.reconciler.snapshot().failures
            assert (kind, name) == (Kind.TUNNEL, VXLAN_DEVICE)
            assert why.endswith(words)
    async with running(bench):
        await bench.until(lambda: not bench.reconciler.snapshot().failures)
    assert "vxlan id 4096" in ip(f"-d link show {VXLAN_DEVICE}")


async def test_a_tunnel_is_made_within_a_moment_of_the_end_of_what_was_in_its_way(
    kernel: NetlinkKernel,
) -> None:
    """Nobody notifies of a program's end."""
    bench = Bench(kernel, Dataplane(tunnels={VXLAN_DEVICE: VXLAN}))
    async with running(bench):
        assert not bench.reconciler.snapshot().failures
        ip(f"link del {VXLAN_DEVICE}")
        with a_program_at_the_port():
            await bench.until(lambda: bool(bench.reconciler.snapshot().failures))
            for _ in range(6):
                await bench.passed()
        await bench.until(lambda: not bench.reconciler.snapshot().failures, HEAL_SECONDS)
