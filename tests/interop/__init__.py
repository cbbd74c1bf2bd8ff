"""Real neighbours of other makes, in fresh network namespaces."""
