"""Tests of `agent.dataplane.explain`."""
