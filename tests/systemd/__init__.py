"""The service under a real systemd, its units, its installation."""
