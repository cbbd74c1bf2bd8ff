"""Tests of `agent.datastore.resources`."""
