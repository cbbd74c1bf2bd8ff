"""The CNI plugin and what the specification says: the shims, requests, options."""
