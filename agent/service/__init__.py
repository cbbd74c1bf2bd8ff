"""The agent as a service of a node: what it tells systemd, how it is installed and removed."""
