"""Tests of `bgp.session`."""
