"""How long a tunnel that is not desired any more is left."""

from __future__ import annotations

from agent.dataplane.kernel.calico_names import TUNL0, VXLAN_DEVICE
from agent.dataplane.kinds.tunnels import MOST_GRACE_SECONDS, TunnelGracePeriod


def test_what_is_desired_again_in_time_was_never_unwanted() -> None:
    grace = TunnelGracePeriod(5.0)
    assert grace.over({TUNL0: 0, VXLAN_DEVICE: 0}, 10.0) == []
    assert grace.over({TUNL0: 0}, 12.0) == []
    assert grace.next_at(12.0) == 15.0
    assert grace.over({TUNL0: 0, VXLAN_DEVICE: 0}, 16.0) == [TUNL0]
    assert grace.next_at(16.0) == 21.0
    assert grace.next_at(22.0) is None
    assert grace.over({}, 17.0) == []
    assert grace.next_at(17.0) is None


def test_a_tunnel_is_left_while_packets_come_but_not_for_ever() -> None:
    grace = TunnelGracePeriod(5.0)
    for second in range(0, 299, 4):
        assert grace.over({TUNL0: second}, second) == []
        assert grace.next_at(second) == min(second + 5, MOST_GRACE_SECONDS)
    assert grace.over({TUNL0: 1000}, MOST_GRACE_SECONDS) == [TUNL0]

    quiet = TunnelGracePeriod(5.0)
    assert quiet.over({TUNL0: 7}, 0.0) == []
    assert quiet.over({TUNL0: 8}, 5.0) == []
    assert quiet.over({TUNL0: 8}, 9.0) == []
    assert quiet.over({TUNL0: 8}, 10.0) == [TUNL0]
