"""What tests of the command line start from."""
