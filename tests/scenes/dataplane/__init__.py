"""What tests of routes, tunnels and the reconciler start from."""
