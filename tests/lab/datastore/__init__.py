"""A lab whose datastore somebody locks, and a node that is taken out of it."""
