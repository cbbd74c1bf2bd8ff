"""A BGP speaker for a node: a protocol core without I/O, and a thin asyncio shell around it."""
