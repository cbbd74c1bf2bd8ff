"""The kernel as the dataplane sees it: objects as values, whose they are, reading and writing them."""
