"""One suite per outside world, run on the fake and on the real one."""
