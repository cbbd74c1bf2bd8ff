"""Tests of `agent.lab`."""
