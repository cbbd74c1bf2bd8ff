"""Tests of `agent.peering`."""
