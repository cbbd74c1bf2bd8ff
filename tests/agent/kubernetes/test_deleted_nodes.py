"""A node is given back with proof alone: two looks, far enough apart, and nothing between them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kubernetes.deleted_nodes import (
    LEAST_GRACE_SECONDS,
    Absences,
    RegisteredNode,
    absences,
    kubernetes_name,
    proved,
)
from ipam.model import NodeName

GRACE = 300.0
N1 = NodeName("n1")
RECORD = {N1: RegisteredNode("k1", 7)}


def test_two_looks_a_grace_period_apart_prove_it_with_a_sentence() -> None:
    first = absences({}, RECORD, {"k2"}, 0.0)
    second = absences(first, RECORD, {"k2"}, GRACE)
    assert proved(second, GRACE, GRACE) == {
        N1: "Kubernetes has no Node k1: seen twice, 300 s apart; nobody wrote the record of n1 meanwhile "
        "(revision 7)"
    }


def test_one_look_proves_nothing_even_without_a_grace_period() -> None:
    assert proved(absences({}, RECORD, (), 9.0), 9.0, 0.0) == {}


def test_a_node_that_was_there_meanwhile_starts_anew() -> None:
    found = absences(absences({}, RECORD, (), 0.0), RECORD, {"k1"}, 200.0)
    assert proved(absences(found, RECORD, (), GRACE), GRACE, GRACE) == {}


def test_a_record_that_was_written_meanwhile_starts_anew() -> None:
    found = absences(absences({}, RECORD, (), 0.0), {N1: RegisteredNode("k1", 8)}, (), GRACE)
    assert proved(found, GRACE, GRACE) == {}


@pytest.mark.parametrize(
    ("references", "name"),
    [
        ([{"orchestrator": "k8s", "nodeName": "k1"}], "k1"),
        ([{"orchestrator": "openstack", "nodeName": "o"}, {"orchestrator": "k8s", "nodeName": "k1"}], "k1"),
        ([{"orchestrator": "k8s", "nodeName": "a"}, {"orchestrator": "k8s", "nodeName": "b"}], None),
        ([{"orchestrator": "openstack", "nodeName": "k1"}], None),
        ([{"orchestrator": "k8s", "nodeName": ""}], None),
        ([{"orchestrator": "k8s", "nodeName": 7}], None),
        ([{"orchestrator": "k8s"}], None),
        ([{"orchestrator": "k8s", "nodeName": "k1"}] * 17, None),
        (["k8s"], None),
        ("k8s", None),
        ([], None),
        (None, None),
    ],
)
def test_only_a_record_that_says_so_is_a_node_of_kubernetes(references: Any, name: str | None) -> None:
    assert kubernetes_name({"spec": {"orchRefs": references}}) == name


@given(
    st.lists(
        st.tuples(
            st.floats(0.0, 2 * GRACE, allow_nan=False),  # since the last look
            st.booleans(),  # the Node is there
            st.booleans(),  # the record was written
        ),
        max_size=30,
    )
)
def test_whatever_happens_it_is_proved_only_after_a_whole_grace_period_without_a_sign(
    looks: list[tuple[float, bool, bool]],
) -> None:
    found: Absences = {}
    now, revision = 0.0, 1
    quiet: float | None = None
    """Since which look there has been no sign."""
    for pause, is_there, is_written in looks:
        now += pause
        revision += is_written
        if is_there:
            quiet = None
        elif quiet is None or is_written:
            quiet = now
        found = absences(found, {N1: RegisteredNode("k1", revision)}, {"k1"} if is_there else (), now)
        expected = quiet is not None and now - quiet >= max(GRACE, LEAST_GRACE_SECONDS)
        assert (N1 in proved(found, now, GRACE)) == expected
