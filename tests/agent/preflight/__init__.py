"""Tests of `agent.preflight`."""
