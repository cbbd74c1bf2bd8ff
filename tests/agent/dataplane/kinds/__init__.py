"""Tests of `agent.dataplane.kinds`."""
