"""A remembered result is made anew when one of its inputs changed, by identity or by equality as was asked; of many
items what follows from each is made once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.memo import Each, Memo


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


@given(st.lists(st.lists(st.integers(0, 9), unique=True)))
def test_of_each_item_is_known_what_follows_and_it_is_made_only_when_the_item_comes(
    rounds: list[list[int]],
) -> None:
    items, each, made = [[number] for number in range(10)], Each[list[int], str](), list[str]()

    def follows(item: list[int]) -> str:
        made.append(str(item))
        return made[-1]

    before: set[int] = set()
    for numbers in rounds:
        made.clear()
        come, gone = each.update([items[number] for number in numbers], follows)
        assert list(each) == [str(items[number]) for number in numbers]
        assert sorted(come) == sorted(made) == sorted(str([one]) for one in set(numbers) - before)
        assert sorted(gone) == sorted(str([one]) for one in before - set(numbers))
        before = set(numbers)
