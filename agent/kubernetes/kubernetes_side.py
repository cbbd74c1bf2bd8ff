"""What of an agent speaks with Kubernetes, made and joined; loaded only where the settings name an API server.

Promises: only wiring is here. Does not know: the rules of any part.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.clock import Clock
from agent.configuration.config import Config
from agent.kubernetes.annotation_source import AnnotationSource
from agent.kubernetes.api import KubernetesApi
from agent.kubernetes.api_server import ApiServer, from_kubeconfig, in_cluster
from agent.kubernetes.node_deletion import NodeDeletion, SignsOfLife
from agent.kubernetes.own_node import OwnNode
from agent.trouble import Trouble
from ipam.etcd.store import Store
from ipam.model import NodeName


@dataclass(frozen=True, slots=True)
class Around:
    """What it is given of the agent."""

    store: Store
    signs_of_life: SignsOfLife
    may_write: Callable[[], bool]
    in_force: Callable[[], bool]
    changed: Callable[[], None]
    stopping: Callable[[], bool]


class KubernetesSide:
    """All parts."""

    def __init__(self, config: Config, around: Around, clock: Clock) -> None:
        self._settings = config.kubernetes
        self._api = KubernetesApi(self._server, clock)
        name, node = config.kubernetes_node_name, NodeName(config.node_name)
        self.annotations = AnnotationSource(self._api)
        self.own_node = OwnNode(self._api, name, clock, around.in_force, around.changed, around.stopping)
        self.deletion = NodeDeletion(
            self._api,
            around.store,
            name,
            node,
            clock,
            Path(config.paths.state),
            self._settings.node_grace_seconds,
            around.signs_of_life,
            around.may_write,
        )

    def _server(self) -> ApiServer:
        if self._settings.in_cluster:
            return in_cluster(os.environ)
        return from_kubeconfig(Path(self._settings.kubeconfig))

    @property
    def runs(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """Those that run, by name."""
        found: dict[str, Callable[[], Awaitable[None]]] = {"kubernetes node": self.own_node.run}
        if self._settings.node_grace_seconds:
            found["deleted nodes"] = self.deletion.run
        return found

    def troubles(self) -> Iterator[Trouble]:
        """What is wanted of Kubernetes and not in force."""
        yield from self._api.troubles()
        yield from self.deletion.troubles()
