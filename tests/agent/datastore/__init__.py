"""Tests of `agent.datastore`."""
