"""Tests of `agent.dataplane.reconciler`."""
