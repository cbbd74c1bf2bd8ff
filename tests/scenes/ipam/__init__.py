"""Scenes of address management."""
