"""Scenes of BGP."""
