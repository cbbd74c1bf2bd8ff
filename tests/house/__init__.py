"""The house tests itself: sizes, heads, names, rooms, and what ARCHITECTURE.md says of them."""
