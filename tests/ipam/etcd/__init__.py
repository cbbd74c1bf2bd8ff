"""Tests of `ipam.etcd`."""
