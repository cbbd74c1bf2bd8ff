"""Checksum offload of a tunnel, as ethtool(8) shows it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace

import pytest

from agent.dataplane.kernel.calico_names import VXLAN_DEVICE
from agent.dataplane.kernel.dataplane_objects import Dataplane
from agent.dataplane.kernel.linux import NetlinkKernel
from agent.netlink import ethtool
from agent.netlink.kernel_errors import KernelError
from tests.fixtures.namespace import fresh_namespace, ip
from tests.scenes.dataplane.desired_states import VXLAN
from tests.scenes.dataplane.reconcilers import Bench, running


@pytest.fixture
def kernel() -> Iterator[NetlinkKernel]:
    with fresh_namespace():
        ip("link add eth0 type veth peer name far0")
        ip("address add 172.26.0.1/24 dev eth0")
        ip("link set eth0 up")
        found = NetlinkKernel(offload=True)
        yield found
        found.close()


def shown() -> str:
    """What ethtool(8) says of the tunnel."""
    done = subprocess.run(["ethtool", "-k", VXLAN_DEVICE], check=True, capture_output=True, text=True)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("tx-checksumming:")]
    return line.split()[1]


async def test_offload_is_switched_as_desired_and_switched_back_when_somebody_else_did(
    kernel: NetlinkKernel,
) -> None:
    for wanted, word, other in ((False, "off", "on"), (True, "on", "off")):
        desired = Dataplane(tunnels={VXLAN_DEVICE: replace(VXLAN, offload=wanted)})
        async with running(Bench(kernel, desired)) as bench:
            assert (shown(), (await kernel.tunnels())[VXLAN_DEVICE].offload) == (word, wanted)
            subprocess.run(["ethtool", "-K", VXLAN_DEVICE, "tx", other], check=True, capture_output=True)
            await bench.until(lambda: shown() == word)  # noqa: B023
            assert bench.reconciler.report().refused == {}


async def test_without_a_desired_it_is_nobodys_business(kernel: NetlinkKernel) -> None:
    careless = NetlinkKernel()
    async with running(Bench(careless, Dataplane(tunnels={VXLAN_DEVICE: VXLAN}))) as bench:
        subprocess.run(["ethtool", "-K", VXLAN_DEVICE, "tx", "off"], check=True, capture_output=True)
        await bench.quiet()
        assert shown() == "off"
        assert bench.reconciler.report().drift["tunnel"] == 0
    careless.close()


def test_an_interface_that_is_not_there_is_an_error_in_words(kernel: NetlinkKernel) -> None:
    assert ethtool.read("nowhere") is None
    with pytest.raises(KernelError, match="setting checksum offload of nowhere off: No such device"):
        ethtool.write("nowhere", wanted=False)
