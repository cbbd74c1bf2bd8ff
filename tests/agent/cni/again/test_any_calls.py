"""Calls of all verbs in any order, with any arguments and faults between them, beside a model of who lives.

Promised whatever came before: no address is free, or two pods', while a living pod bears it; an ADD that succeeds has
made the interface that it names; a DEL succeeds, once more as well, and leaves nothing of its interface and all of the
others'. Steps are played on fakes: namespaces that go, a datastore that is away or loses answers, a watch that lags, an
agent that starts again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from agent.cni.attachment import Attachment
from agent.datastore.state_cache import ENDPOINTS, StateCache
from ipam import block as blocks
from ipam.codec import decode_block
from ipam.keys import BLOCKS
from tests.fakes.pods import PodFault
from tests.fakes.store import Fault
from tests.scenes.cni.cni_world import NODE, World

ALIKE = "0" * 63
CONTAINERS = ("c1", "C1", f"{ALIKE}1", f"{ALIKE}2", "default.web-0123456789")
PODS = (
    "",
    "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0123456789",
    "K8S_POD_NAMESPACE=a.b;K8S_POD_NAME=c",
    "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b.c",
    "K8S_POD_NAME=b.c",
)
NAMESPACES = ("a", "b", "c")
"""Their files; each has a second path."""
INTERFACES = ("eth0", "net1")
NETWORKS = ("net", "other")
KINDS: dict[str, dict[str, object]] = {
    "addresses": {"type": "bridge", "ipam": {"type": "tortie-ipam"}},
    "ours": {"type": "tortie"},
}
ATTEMPTS = 3
"""Of a DEL: a fault that a test put there hits one call."""


@dataclass(frozen=True)
class Step:
    """One thing that happens."""

    kind: str
    container: str = CONTAINERS[0]
    pod: str = ""
    netns: str = NAMESPACES[0]
    interface: str = INTERFACES[0]
    network: str = NETWORKS[0]
    plugin: str = "ours"
    which: int = 0
    """Of several paths, faults, lists."""


def calls(kind: str) -> st.SearchStrategy[Step]:
    return st.builds(
        Step,
        st.just(kind),
        st.sampled_from(CONTAINERS),
        st.sampled_from(PODS),
        st.sampled_from(NAMESPACES),
        st.sampled_from(INTERFACES),
        st.sampled_from(NETWORKS),
        st.sampled_from(sorted(KINDS)),
        st.integers(0, 3),
    )


FAULTS = (
    *(PodFault.MAKE_REFUSED, PodFault.CONFIGURE_REFUSED, PodFault.DETACH_REFUSED),
    *(Fault.UNAVAILABLE, Fault.LOST_REPLY, Fault.LATE),
)
HAPPENINGS = ("sync", "sync", "restart", "away", "back", "replay", "unroutable", "routable", "late")
STEPS = st.one_of(
    *(calls(kind) for kind in ("ADD", "ADD", "ADD", "DEL", "DEL", "CHECK", "GC", "STATUS", "gone")),
    st.builds(Step, st.sampled_from(HAPPENINGS)),
    st.builds(Step, st.just("fault"), which=st.integers(0, len(FAULTS) - 1)),
)

Key = tuple[str, str, str]
"""Container, interface, kind."""


@dataclass
class Play:
    """One world and what is known of it: after each step everything promised is looked at."""

    world: World
    directory: Path
    addresses_of: dict[Key, tuple[str, str, frozenset[str]]] = field(default_factory=dict)
    """Interfaces that other plugins made and nobody has deleted: network, namespace, addresses."""
    pod_of: dict[tuple[str, str], str] = field(default_factory=dict)
    """Container and interface -> the pod that its last ADD named."""

    async def start(self) -> None:
        self.world.pods.namespaces = set()
        for name in NAMESPACES:
            self._make_namespace(name)
        await self.world.start()

    def path(self, step: Step) -> str:
        suffix = "" if step.which % 2 else "-again"
        return str(self.directory / f"{step.netns}{suffix}")

    def _make_namespace(self, name: str) -> None:
        path = self.directory / name
        again = self.directory / f"{name}-again"
        for one in (path, again):
            one.touch()
        assert self.world.pods.namespaces is not None
        self.world.pods.namespaces.add(str(path))
        self.world.pods.paths[str(again)] = str(path)

    async def step(self, step: Step) -> None:
        before = dict(self.world.pods.attached)
        match step.kind:
            case "ADD":
                await self._add(step)
            case "DEL":
                await self._delete(step)
            case "GC":
                await self._collect(step, before)
            case "CHECK" | "STATUS":
                await self._call(step)
                assert self.world.pods.attached == before, f"{step.kind} changed something"
            case "gone":
                self._namespace_goes(step)
            case "fault":
                fault = FAULTS[step.which]
                if isinstance(fault, PodFault):
                    self.world.pods.faults.add(fault)
                else:
                    self.world.store.fail_next(fault)
            case _:
                await self._happen(step.kind)
        self.must_hold()

    async def _call(self, step: Step, **config: object) -> tuple[int, dict[str, Any]]:
        environment = {"CNI_ARGS": step.pod, "CNI_IFNAME": step.interface}
        usual = {"name": step.network, "prevResult": {}, **KINDS[step.plugin], **config}
        return await self.world.call(
            step.kind, step.container, netns=self.path(step), config=usual, environment=environment
        )

    async def _add(self, step: Step) -> None:
        key = (step.container, step.interface, step.plugin)
        bystanders, before = self._others(step), dict(self.world.pods.attached)
        status, result = await self._call(step)
        if status:
            assert result["code"] in (5, 8, 11, 100), result
        if step.plugin == "ours" and (status == 0 or self.world.pods.attached != before):
            self.pod_of[step.container, step.interface] = step.pod
        addresses = frozenset(ip["address"].partition("/")[0] for ip in result.get("ips", ()))
        if status == 0 and step.plugin == "addresses":
            self.addresses_of[key] = step.network, self.path(step), addresses
        elif status == 0:
            host = self.world.pods.inside(self.path(step), step.interface)
            assert host is not None, "success without an interface"
            assert host == result["interfaces"][-2]["name"]
            made = self.world.pods.attached[host]
            assert made.container_id == step.container
            assert addresses == frozenset(map(str, made.addresses)), "success without its addresses"
        self._must_be_there(bystanders, step)

    def _others(self, step: Step) -> dict[str, Attachment]:
        """Living interfaces that a call is not about."""
        ours = (step.container, step.interface)
        return {
            host: made
            for host, made in self.world.pods.attached.items()
            if (made.container_id, made.interface) != ours and made.addresses
        }

    def _must_be_there(self, bystanders: dict[str, Attachment], step: Step) -> None:
        """Only a newer container of the same pod takes another one's device."""
        for host, made in bystanders.items():
            same_pod = (
                "NAMESPACE" in step.pod and self.pod_of.get((made.container_id, made.interface)) == step.pod
            )
            replaced = step.kind == "ADD" and step.interface == made.interface and same_pod
            assert replaced or self.world.pods.attached.get(host) == made, (
                f"{step} took {host} of {made.container_id}"
            )

    async def _delete(self, step: Step) -> None:
        bystanders = self._others(step)
        for attempt in range(ATTEMPTS):
            status, error = await self._call(step)
            if status == 0:
                break
            assert attempt < ATTEMPTS - 1, error
        self._must_be_there(bystanders, step)
        self.addresses_of.pop((step.container, step.interface, step.plugin), None)
        if step.plugin == "ours":
            left = [one for one in self.world.pods.attached.values() if one.container_id == step.container]
            assert [one for one in left if one.interface == step.interface] == []
        assert (await self._call(step))[0] == 0 or self.world.pods.faults

    async def _collect(self, step: Step, before: dict[str, Attachment]) -> None:
        living = [(one.container_id, one.interface) for one in self.world.pods.attached.values()]
        living += [(container, interface) for container, interface, _ in self.addresses_of]
        valid = living if step.which < 2 else living[: step.which - 2]
        listed = [{"containerID": container, "ifname": name} for container, name in valid]
        await self._call(step, **{"cni.dev/valid-attachments": listed})
        for host, made in before.items():
            kept = (made.container_id, made.interface) in valid
            assert not kept or self.world.pods.attached.get(host) == made, f"GC took {host}"
        for key, (network, _, _) in tuple(self.addresses_of.items()):
            if key[:2] not in valid and network == step.network:
                del self.addresses_of[key]  # by its name it may be freed now

    def _namespace_goes(self, step: Step) -> None:
        path = str(self.directory / step.netns)
        self.world.pods.remove_namespace(path)
        for one in (path, f"{path}-again"):
            Path(one).unlink()
        gone = (path, f"{path}-again")
        self.addresses_of = {key: held for key, held in self.addresses_of.items() if held[1] not in gone}
        self._make_namespace(step.netns)

    async def _happen(self, kind: str) -> None:
        world = self.world
        match kind:
            case "away" | "back":
                world.store.away = kind == "away"
                world.why = "the datastore is away" if world.store.away else None
            case "unroutable" | "routable":
                world.unsettled = TimeoutError("not carried out") if kind == "unroutable" else None
            case "late":
                world.store.deliver_late()
            case _ if world.store.away:
                pass
            case "sync":
                await world.sync()
            case "replay":
                await world.server.release_replay.replay()
            case "restart":
                world.store._faults.clear()
                world.cluster = StateCache(NODE, world.living)
                await world.start()
                await world.sync()

    # -- what is promised ---------------------------------------------------------------------------------------------

    def must_hold(self) -> None:
        """No address is free, or two pods', while a living pod bears it."""
        allocated = self._allocated()
        bearers: dict[str, str] = {}
        for container, interface, addresses in self._living():
            for address in addresses:
                whose = f"{container} {interface}"
                assert address not in bearers, f"{address} is {bearers[address]}'s and {whose}'s"
                bearers[address] = whose
                assert address in allocated, f"{address} of {whose} is free"
                assert container in allocated[address], f"{address} of {whose} is {allocated[address]}'s"

    def _living(self) -> Iterator[tuple[str, str, frozenset[str]]]:
        for made in self.world.pods.attached.values():
            yield made.container_id, made.interface, frozenset(map(str, made.addresses))
        for (container, interface, _), (_, _, addresses) in self.addresses_of.items():
            yield container, interface, addresses

    def _allocated(self) -> dict[str, str]:
        """Address -> the handle that it is allocated to."""
        found = {}
        for key, stored in self.world.store.backup()[0].items():
            if key.startswith(BLOCKS):
                block = decode_block(stored)
                for ordinal, attributes in blocks.allocated(block):
                    found[str(blocks.address_of(block, ordinal))] = str(attributes.handle)
        return found

    async def end(self) -> None:
        """With everything deleted nothing is left, whatever happened."""
        await self._happen("back")
        await self._happen("routable")
        self.world.pods.faults.clear()
        self.world.store._faults.clear()
        self.world.store.deliver_late()
        for plugin in (*KINDS, "ours"):
            await self._happen(
                "sync"
            )  # endpoints are hidden while another interface has their address or name
            for container, interface, network in product(CONTAINERS, INTERFACES, NETWORKS):
                await self._delete(Step("DEL", container, "", "a", interface, network, plugin))
        await self.world.server.release_replay.replay()
        assert self.world.pods.attached == {}
        assert self.world.journal() == []
        assert (await self.world.store.list(ENDPOINTS)).values == {}
        assert self._allocated() == {}


async def played(steps: list[Step]) -> None:
    with TemporaryDirectory() as directory, capture_logs():
        root = Path(directory)
        play = Play(World(root / "state"), root)
        await play.start()
        for step in steps:
            await play.step(step)
        await play.end()


@settings(max_examples=30, deadline=None)
@given(steps=st.lists(STEPS, min_size=5, max_size=30))
async def test_whatever_is_called_in_whatever_order_no_living_pods_address_is_free(steps: list[Step]) -> None:
    await played(steps)
