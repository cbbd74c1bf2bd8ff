"""A second kernel for the tests: User-Mode-Linux with ipip, on the host's own file system."""
