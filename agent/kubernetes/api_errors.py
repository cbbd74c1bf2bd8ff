"""What an API server may do to a question, each a sentence.

Promises: every error of this room towards the API server is an ApiError. Does not know: who asks.
"""

from __future__ import annotations


class ApiError(Exception):
    """The question has no usable answer."""


class ApiAway(ApiError):
    """Nobody answered, or somebody who cannot now (401, 429, 5xx): worth asking again."""


class ApiRefused(ApiError):
    """The API server said no (403, 404, 409, 422 …): the same question gets the same answer."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class BadAnswer(ApiError):
    """What came is no answer that can be read."""
