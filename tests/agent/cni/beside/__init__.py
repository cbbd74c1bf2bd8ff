"""Tests of `agent.cni` beside Calico: what its tools find of ours."""
