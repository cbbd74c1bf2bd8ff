"""Tests of `agent.node`."""
