"""Tests of `agent.dataplane.desired`."""
