"""Asks the API server: objects' metadata, lists of names, changes of a Node's status.

Promises: each question is bounded in time and size; that the API server is away, or refuses, is a trouble from the
first failure until the next answer, and is logged when it comes and when it goes. Of the credentials nothing is kept.
Does not know: what follows from an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TypeVar
from urllib.parse import quote, urlencode

import structlog

from agent.clock import Clock
from agent.kubernetes.api_errors import ApiAway, ApiError, ApiRefused, BadAnswer
from agent.kubernetes.api_objects import (
    MOST_OBJECT_BYTES,
    MOST_PAGE_BYTES,
    KubernetesObject,
    read_object,
    read_page,
    read_refusal,
)
from agent.kubernetes.api_server import ApiServer
from agent.kubernetes.http_client import Question, ask
from agent.trouble import Trouble, TroubleKind

ANSWER_SECONDS = 10.0
PAGE_LIMIT = 500
MOST_PAGES = 200
"""Of one list: a hundred thousand objects."""
JSON = "application/json"
METADATA = f"{JSON};as=PartialObjectMetadata;v=v1;g=meta.k8s.io,{JSON}"
METADATA_LIST = f"{JSON};as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,{JSON}"
MERGE_PATCH = "application/strategic-merge-patch+json"
NODES = "/api/v1/nodes"
AGAIN = frozenset({401, 408, 429})
"""Statuses beside the 5xx that may be others the next time: a token is rotated, a server is busy."""

_Read = TypeVar("_Read")

log = structlog.get_logger()


def node_path(name: str) -> str:
    """The path of a Node."""
    return f"{NODES}/{quote(name, safe='')}"


def pod_path(namespace: str, name: str) -> str:
    """The path of a pod."""
    return f"/api/v1/namespaces/{quote(namespace, safe='')}/pods/{quote(name, safe='')}"


def namespace_path(name: str) -> str:
    """The path of a namespace."""
    return f"/api/v1/namespaces/{quote(name, safe='')}"


class KubernetesApi:
    """One API server; who asks it gets an answer or an ApiError."""

    def __init__(self, server: Callable[[], ApiServer], clock: Clock) -> None:
        """`server` reads where it is, for each question anew; it raises ApiAway."""
        self._server = server
        self._clock = clock
        self._away: tuple[str, datetime] | None = None
        """Why, and since when."""
        self._refused: dict[str, str] = {}
        """What is asked (`get nodes`) -> why it is refused; as many as there are kinds of questions."""

    async def get(self, path: str, what: str, *, whole: bool = False) -> KubernetesObject | None:
        """The object there, or None; its metadata alone unless it is wanted `whole`. Raises ApiError."""
        headers = {"Accept": JSON if whole else METADATA}
        body = await self._ask(Question(path, headers=headers), f"get {what}", MOST_OBJECT_BYTES, absent=True)
        return None if body is None else self._readable(f"get {what}", body, read_object)

    async def names(self, path: str, what: str) -> frozenset[str]:
        """The names of all objects there: one list, as the API server's datastore has it now. Raises ApiError."""
        found: set[str] = set()
        following = ""
        for _ in range(MOST_PAGES):
            query = {"limit": PAGE_LIMIT, **({"continue": following} if following else {})}
            question = Question(f"{path}?{urlencode(query)}", headers={"Accept": METADATA_LIST})
            body = await self._ask(question, f"list {what}", MOST_PAGE_BYTES) or b""
            page = self._readable(f"list {what}", body, read_page)
            found.update(one.metadata.name for one in page.items or ())
            following = page.metadata.next
            if not following:
                return frozenset(found)
        raise BadAnswer(f"list {what}: more than {MOST_PAGES} pages")

    async def patch(self, path: str, what: str, body: bytes) -> None:
        """Change an object by a strategic merge patch. Raises ApiError."""
        headers = {"Accept": JSON, "Content-Type": MERGE_PATCH}
        await self._ask(Question(path, "PATCH", headers, body), f"patch {what}", MOST_OBJECT_BYTES)

    def troubles(self) -> Iterator[Trouble]:
        """That it is away, and what it refuses."""
        if self._away is not None:
            why, since = self._away
            yield Trouble(
                TroubleKind.KUBERNETES,
                "",
                f"the API server is away since {since:%H:%M:%S} UTC: {why}",
                "what was last read holds; a pod is attached only if its annotations were read before",
            )
        for what, why in self._refused.items():
            yield Trouble(
                TroubleKind.KUBERNETES,
                what,
                f"the API server refuses it: {why}",
                cure="give the agent's account the rights of docs/kubernetes-api.md",
            )

    async def _ask(self, question: Question, what: str, most: int, *, absent: bool = False) -> bytes | None:
        try:
            status, body = await ask(self._server(), question, most, ANSWER_SECONDS)
            if status >= 500 or status in AGAIN:
                raise ApiAway(read_refusal(status, body))
        except ApiError as error:
            self._is_away(str(error))
            raise
        self._answered()
        if absent and status == 404:
            self._refused.pop(what, None)
            return None
        if not 200 <= status < 300:
            why = read_refusal(status, body)
            if what not in self._refused:
                log.warning("kubernetes.refused", what=what, why=why)
            self._refused[what] = why
            raise ApiRefused(status, f"{what}: {why}")
        self._refused.pop(what, None)
        return body

    def _readable(self, what: str, body: bytes, read: Callable[[bytes], _Read]) -> _Read:
        """What is read of an answer; one that cannot be read is as good as none. Raises BadAnswer."""
        try:
            return read(body)
        except BadAnswer as error:
            self._is_away(f"{what}: its answer cannot be read: {error}")
            raise

    def _is_away(self, why: str) -> None:
        if self._away is None:
            log.warning("kubernetes.away", why=why)
        self._away = why, self._away[1] if self._away is not None else self._clock.wall()

    def _answered(self) -> None:
        if self._away is not None:
            log.info("kubernetes.away_over", since=f"{self._away[1]:%H:%M:%S}")
            self._away = None
