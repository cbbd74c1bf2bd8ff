"""This node's place in the cluster: its addresses, its record, the ways to the other nodes."""
