"""One attachment, called for more than once, with any arguments: its own is found, nobody else's is touched."""
