"""Second implementations of the outside worlds, with named faults."""
