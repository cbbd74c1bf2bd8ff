"""The agent as a service of a node: what systemd learns of it, how it is installed and removed."""
