"""Tests of `agent.service`."""
