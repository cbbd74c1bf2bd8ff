"""The etcd client: a store with revisions, guards and watches; it knows nothing of addresses."""
