"""Where settings come from, and what is written about them."""
