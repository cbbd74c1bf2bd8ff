"""What people change in the datastore by a command: what speaks against it, what goes with it."""
