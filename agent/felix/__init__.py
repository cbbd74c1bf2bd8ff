"""What Calico's Felix left on this machine: recognised, watched, and taken away on request with an undo file."""
