"""Calico's resources as values: their fields, how people write them, everything that can be wrong with one."""
