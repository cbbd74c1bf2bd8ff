"""What tests of the CNI server, its runtimes and its pods start from."""
