"""The command line as a whole: its help, its examples, its exit codes, what it imports."""
