"""The Kubernetes side of an agent, where the settings name an API server; else nothing of it is loaded.

Promises: only wiring is here. Does not know: what is asked of Kubernetes, what follows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

from agent.clock import Clock
from agent.cni.dependencies import PodAnnotations
from agent.configuration.config import Config
from agent.node.node_controller import NodeController
from agent.node.node_resource import NodeResource
from agent.node.signs_of_life import signs_of_life
from agent.service.settings_reload import SettingsReload
from agent.trouble import Trouble
from ipam.etcd.store import Store
from ipam.model import Address, NodeName

if TYPE_CHECKING:
    from agent.kubernetes.kubernetes_side import KubernetesSide


class Seen(Protocol):
    """What is asked of the agent's status."""

    def established(self) -> list[Address]:
        """The peers whose BGP session is up."""
        ...

    def not_ready(self) -> str | None:
        """None, or why no pod can be attached now."""
        ...


class OptionalKubernetes:
    """The side, or none."""

    def __init__(
        self,
        config: Config,
        store: Store,
        node: tuple[NodeController, NodeResource],
        clock: Clock,
        seen: Seen,
        may_write: Callable[[], bool],
        reload: SettingsReload,
    ) -> None:
        """`reload` says whether a cancelled agent only begins again."""
        self.side: KubernetesSide | None = None
        if not config.kubernetes.kubeconfig and not config.kubernetes.in_cluster:
            return
        from agent.kubernetes.kubernetes_side import Around, KubernetesSide

        async def signs(name: NodeName) -> list[str]:
            found = await signs_of_life(store, name, seen.established())
            return [*found.of_life, *found.doubts]  # a machine that is there keeps what it has

        controller, resource = node
        is_ready = lambda: seen.not_ready() is None  # noqa: E731
        stopping = lambda: not reload.wanted  # noqa: E731
        around = Around(store, signs, may_write, is_ready, controller.look_again, stopping)
        self.side = KubernetesSide(config, around, clock)
        resource.also = self.side.own_node.write

    @property
    def annotations(self) -> PodAnnotations | None:
        """Where a pod's annotations are asked for."""
        return self.side.annotations if self.side is not None else None

    @property
    def runs(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """What runs, by name."""
        return self.side.runs if self.side is not None else {}

    @property
    def reclaimed(self) -> Mapping[str, int]:
        """What was given back of deleted nodes."""
        return self.side.deletion.counts if self.side is not None else {}

    def troubles(self) -> Iterable[Trouble]:
        """What is wanted of Kubernetes and not in force."""
        return self.side.troubles() if self.side is not None else ()
