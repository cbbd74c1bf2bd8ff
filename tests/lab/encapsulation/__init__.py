"""Whole labs in every encapsulation, and while it changes."""
