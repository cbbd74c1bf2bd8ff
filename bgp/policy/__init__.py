"""Policy: which paths are accepted and advertised, with which changes, and what we originate."""
