"""Preflight: its findings by table, and its reading on real kernels and files."""
