"""What the agent leaves in the kernel when it is uninstalled: nothing of its own."""

from __future__ import annotations

from agent.configuration.config import Config
from agent.service.uninstall import clear_kernel
from tests.fakes.kernel import FakeKernel
from tests.scenes.dataplane.desired_states import EVERYTHING
from tests.scenes.dataplane.reconcilers import Bench, running


async def test_every_object_of_ours_goes_the_workload_filter_too() -> None:
    kernel = FakeKernel()
    for name in ("eth0", "cali1"):
        kernel.add_link(name)
    async with running(Bench(kernel, EVERYTHING)):
        assert kernel.filter_table is not None
    kernel.delete_link("cali1")
    done = await clear_kernel(kernel, Config())
    assert "nftables: workload filter removed" in done
    tables = kernel.filter_table, kernel.nft_table, kernel.route_table, kernel.tunnel_table
    assert tables == (None, None, {}, {})
