"""Tests of `bgp.wire`."""
