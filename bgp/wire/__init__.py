"""BGP on the wire: octets and values, and nothing that has a state."""
