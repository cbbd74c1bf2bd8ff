"""Tests of `agent.cni`."""
