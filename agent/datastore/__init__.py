"""What the datastore says: resources as values, how they are read and checked, and the facts gathered from them."""
