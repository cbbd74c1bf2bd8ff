"""One attachment, called for more than once, with whatever arguments: what it has is found, and nobody else's is touched."""
