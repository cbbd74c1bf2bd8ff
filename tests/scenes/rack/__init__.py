"""Racks, what their events cost, and the same scene around BIRD and around us."""
