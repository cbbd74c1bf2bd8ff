"""Tests of `agent.dataplane.kernel`."""
