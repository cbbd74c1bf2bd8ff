"""Taking and giving back addresses: each change one guarded transaction."""
