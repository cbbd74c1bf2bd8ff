"""What tests of a lab, its nodes and what passes between them start from."""
