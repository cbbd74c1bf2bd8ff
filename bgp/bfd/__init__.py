"""Bidirectional Forwarding Detection: is the way to a neighbour alive, within tenths of a second (RFC 5880 to 5883)."""
