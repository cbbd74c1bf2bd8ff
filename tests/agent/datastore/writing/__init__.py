"""Tests of `agent.datastore.writing`."""
