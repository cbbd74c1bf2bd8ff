"""Everything the desired state depends on, as one frozen value."""
