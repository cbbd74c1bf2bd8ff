"""BFD: packets, one session, all of them, and what an agent says of them."""
