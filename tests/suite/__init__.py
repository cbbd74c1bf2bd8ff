"""The whole suite: its shards, each on a machine's copy of its own, side by side."""
