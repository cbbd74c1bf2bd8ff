"""A remembered result is made anew when one of its inputs changed, by identity or by equality as was asked."""

from __future__ import annotations

import pytest

from agent.memo import Memo


@pytest.mark.parametrize(("by_identity", "made"), [(True, 3), (False, 2)])
def test_equal_inputs_are_the_same_only_where_identity_was_not_asked_for(
    by_identity: bool, made: int
) -> None:
    memo, results = Memo[int](by_identity=by_identity), []
    first = [1]
    for inputs in ((first, "x"), (first, "x"), ([1], "x"), ([2], "x")):
        results.append(memo.get(lambda: len(set(results)), *inputs))
    assert len(set(results)) == made
    assert results == sorted(results)
