"""This node's place in the cluster: its addresses and its Node resource."""
