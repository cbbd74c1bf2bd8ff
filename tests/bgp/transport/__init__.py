"""Tests of `bgp.transport`."""
