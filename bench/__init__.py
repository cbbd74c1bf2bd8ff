"""Measures this agent beside its peers on the same work, in turn, on the same kernel: `make bench`."""
