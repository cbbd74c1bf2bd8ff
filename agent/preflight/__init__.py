"""Preflight: what on this machine would stop pods from reaching each other, with evidence and the fix."""
