"""Tests of `agent.netlink`."""
