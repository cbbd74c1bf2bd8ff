"""The desired state: inputs become routes, tunnels, sysctls and masquerading. Pure."""
