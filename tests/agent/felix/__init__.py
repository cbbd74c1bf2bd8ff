"""Tests of `agent.felix`."""
