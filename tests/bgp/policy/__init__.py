"""Tests of `bgp.policy`."""
