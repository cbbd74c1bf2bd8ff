"""Tests of `agent.kubernetes`."""
