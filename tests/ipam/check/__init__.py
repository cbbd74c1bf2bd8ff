"""Tests of `ipam.check`."""
