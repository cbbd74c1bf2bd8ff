"""Virtual machines by the lab's topology, and the smoke test that runs on them."""
