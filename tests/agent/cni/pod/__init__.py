"""Tests of `agent.cni.pod`."""
