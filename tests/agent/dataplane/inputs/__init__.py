"""Tests of `agent.dataplane.inputs`."""
