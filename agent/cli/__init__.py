"""The command line: `tortie`. The only room that prints."""
