"""Tests of `ipam.allocation`."""
