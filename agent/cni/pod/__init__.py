"""A pod's network: its veth pair and all that is inside the pod's namespace."""
