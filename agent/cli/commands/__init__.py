"""The commands of `tortie`, a file for each group."""
