"""What a stopped Felix leaves on a machine."""
