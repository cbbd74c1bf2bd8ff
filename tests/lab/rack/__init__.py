"""A rack of nodes with two uplinks, and BIRD as the judge of the routes of one."""
