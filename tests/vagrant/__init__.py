"""What makes the virtual machines, and what their smoke test makes of answers; nothing is booted."""
