"""Tests of `agent.metrics`."""
