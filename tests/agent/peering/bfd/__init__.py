"""BFD sessions beside BGP peers: which are wanted, and the door to their process."""
