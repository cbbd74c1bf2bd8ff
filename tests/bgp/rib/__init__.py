"""Tests of `bgp.rib`."""
