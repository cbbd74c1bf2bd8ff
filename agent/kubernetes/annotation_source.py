"""Calico's annotations of a pod and of its namespace, asked of the API server with each ADD.

Strategy. A pod is asked for when it is attached, not watched: what a watch has may be older than the pod, and a pod
of the same name that was made anew would get the older one's pool. Its uid, where the runtime says it, has to agree.
Promises: an answer within WAIT_SECONDS, or a CniError with a sentence and "try again"; never a guess. While the API
server is away, what was read of this very pod (its uid) in this life of the agent holds. As in Calico's plugin a
namespace's pools are those of its pods that name none, and its other annotations are not theirs.
Does not know: what an annotation means.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping

from agent.cni.plugin.options import CniError, Code
from agent.cni.plugin.pod_annotations import PREFIX
from agent.kubernetes.api import KubernetesApi, namespace_path, pod_path
from agent.kubernetes.api_errors import ApiAway, ApiError, BadAnswer
from agent.kubernetes.api_objects import KubernetesObject

WAIT_SECONDS = 8.0
"""Less than any runtime waits for a plugin."""
RETRY_SECONDS = 0.5
MOST_REMEMBERED = 1000
"""Pods; those asked for last."""
OF_NAMESPACES = (f"{PREFIX}ipv4pools", f"{PREFIX}ipv6pools")
STATIC_UID = "kubernetes.io/config.hash"
"""Of a static pod Kubernetes has a mirror with a uid of its own; the kubelet's uid stands here."""


class AnnotationSource:
    """Asks, and remembers what it was told of each pod."""

    def __init__(self, api: KubernetesApi) -> None:
        self._api = api
        self._known: OrderedDict[str, Mapping[str, str]] = OrderedDict()

    async def of(self, namespace: str, pod: str, uid: str) -> Mapping[str, str]:
        """See PodAnnotations."""
        name = f"pod {namespace}/{pod}"
        last: ApiError | None = None
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while True:
                    try:
                        found = await self._ask(namespace, pod, uid, name)
                        break
                    except (ApiAway, BadAnswer) as error:
                        last = error
                        if uid in self._known:
                            return self._known[uid]
                        await asyncio.sleep(RETRY_SECONDS)
        except TimeoutError:
            if uid in self._known:
                return self._known[uid]
            why = f"no answer within {WAIT_SECONDS:g} s" if last is None else str(last)
            raise CniError(
                Code.TRY_AGAIN, f"{name}: its annotations cannot be read from Kubernetes: {why}"
            ) from last
        except ApiError as error:
            raise CniError(
                Code.TRY_AGAIN, f"{name}: its annotations cannot be read from Kubernetes: {error}"
            ) from error
        if uid:
            self._known[uid] = found
            self._known.move_to_end(uid)
            while len(self._known) > MOST_REMEMBERED:
                self._known.popitem(last=False)
        return found

    async def _ask(self, namespace: str, pod: str, uid: str, name: str) -> Mapping[str, str]:
        """Raises ApiError, CniError for a pod that is not there."""
        async with asyncio.TaskGroup() as group:
            asked = [
                group.create_task(self._answer(pod_path(namespace, pod), "pod")),
                group.create_task(self._answer(namespace_path(namespace), "namespace")),
            ]
        of_pod, of_namespace = (task.result() for task in asked)
        for answer in (of_pod, of_namespace):
            if isinstance(answer, ApiError):
                raise answer
        if not isinstance(of_pod, KubernetesObject) or not isinstance(of_namespace, KubernetesObject):
            raise CniError(Code.TRY_AGAIN, f"{name}: Kubernetes has none of this name")
        own = of_pod.metadata.annotations or {}
        if uid and uid not in (of_pod.metadata.uid, own.get(STATIC_UID)):
            raise CniError(Code.TRY_AGAIN, f"{name}: Kubernetes has another one of this name by now")
        shared = of_namespace.metadata.annotations or {}
        pools = {key: shared[key] for key in OF_NAMESPACES if shared.get(key)}
        calicos = {key: value for key, value in own.items() if key.startswith(PREFIX) and value}
        return pools | calicos

    async def _answer(self, path: str, what: str) -> KubernetesObject | ApiError | None:
        try:
            return await self._api.get(path, what)
        except ApiError as error:
            return error
