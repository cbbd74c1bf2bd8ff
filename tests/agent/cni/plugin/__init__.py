"""Tests of `agent.cni.plugin`."""
