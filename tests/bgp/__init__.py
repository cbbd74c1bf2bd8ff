"""Tests of the BGP speaker."""
