"""What tests of resources start from."""
