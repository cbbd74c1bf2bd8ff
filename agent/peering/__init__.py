"""Whom this node peers with, by which rules, what it tells them, and what it makes of their answers."""
