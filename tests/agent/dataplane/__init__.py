"""Tests of `agent.dataplane`."""
