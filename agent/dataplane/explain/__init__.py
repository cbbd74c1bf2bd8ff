"""Why each route is there, and what the next pass would change: for people."""
