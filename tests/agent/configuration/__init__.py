"""Tests of `agent.configuration`."""
