"""Peers found on the wire: which router is at the other end of an uplink, and that this node can be found there."""
