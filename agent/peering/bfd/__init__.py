"""BFD on the agent's side: which sessions are wanted, and what the BFD process says of them."""
