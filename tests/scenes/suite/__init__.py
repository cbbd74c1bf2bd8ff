"""What tests of the suite itself start from."""
