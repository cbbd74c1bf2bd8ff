"""Tests of address management."""
