"""What is to be done for each kind of kernel object, and the doing of it."""
